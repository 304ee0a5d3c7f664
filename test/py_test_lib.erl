%% What the suites share: the application started, Python modules written for a test, waiting for a condition, and the
%% check that a suite leaves nothing behind: no request, no ref, no context of its own, no fd, no thread.
-module(py_test_lib).

-export([cases/1]).
-export([start/1]).
-export([grace/1]).
-export([loop/2]).
-export([abandoning/1]).
-export([begun/2]).
-export([stop/1]).
-export([eventually/1]).
-export([eventually/2]).
-export([context/1]).
-export([drop/1]).
-export([module/3]).
-export([parallel/2]).
-export([blocker/1]).
-export([running/1]).
-export([steady/2]).
-export([no_messages/0]).
-export([device/0]).
-export([device/1]).
-export([written/1]).
-export([threads/0]).
-export([run_node/2]).
-export([run_node/3]).

-define(WAIT_MS, 60000).
-define(GRACE_MS, 5000).
-define(SHORT_GRACE_MS, 500).

%% A suite's test cases: what it exports with one argument.
-spec cases(module()) -> [atom()].
cases(Suite) ->
    [F || {F, 1} <- Suite:module_info(exports), not lists:member(F, [init_per_suite, end_per_suite, module_info])].

%% Of a suite: init_per_suite and end_per_suite.
-spec start([{atom(), term()}]) -> [{atom(), term()}].
start(Config) ->
    ok = grace(?GRACE_MS),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, _} = py:stacks(), %% starts the context of the administration, which stays
    {ok, _} = py:gc(),
    #{level := Level} = logger:get_primary_config(),
    ok = logger:set_primary_config(level, emergency), %% processes are killed by the hundred
    [{py_fds, fds()}, {py_contexts, length(py_context:list())}, {log_level, Level} | Config].

%% On a machine with more to do than it can, a thread that is to stop may not run at all for a second and more.
-spec grace(pos_integer()) -> ok.
grace(Ms) ->
    _ = application:load(erlang_python),
    ok = application:set_env(erlang_python, grace_ms, Ms),
    ok = py_nif:grace(Ms).

%% Of a suite whose cases run on both backends of the loop: init_per_group, and with `native` end_per_group.
-spec loop(native | beam, [{atom(), term()}]) -> [{atom(), term()}].
loop(Backend, Config) ->
    ok = application:stop(erlang_python),
    ok = application:set_env(erlang_python, loop, Backend),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, _} = py:stacks(),
    [{backend, Backend} | Config].

%% Runs Fun, in which something is meant to be abandoned.
-spec abandoning(fun(() -> Result)) -> Result.
abandoning(Fun) ->
    ok = py_nif:grace(?SHORT_GRACE_MS),
    try
        Fun()
    after
        ok = py_nif:grace(?GRACE_MS)
    end.

%% Fun(Ms), again with twice the time while it gives Early: for a deadline that is to come when the call has begun.
-spec begun(fun((pos_integer()) -> Result), Result) -> Result.
begun(Fun, Early) ->
    begun(Fun, Early, 20).

-spec begun(fun((pos_integer()) -> Result), Result, pos_integer()) -> Result.
begun(Fun, Early, Ms) ->
    case Fun(Ms) of
        Early when Ms < ?WAIT_MS -> begun(Fun, Early, 2 * Ms);
        Result -> Result
    end.

-spec stop([{atom(), term()}]) -> ok.
stop(Config) ->
    ok = logger:set_primary_config(level, proplists:get_value(log_level, Config)),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, _} = py:stacks(),
    {ok, _} = py:gc(),
    Fds = proplists:get_value(py_fds, Config),
    Contexts = proplists:get_value(py_contexts, Config),
    eventually(fun() ->
        _ = [erlang:garbage_collect(P) || P <- processes()],
        #{requests := Requests, refs := Refs, pins := Pins, far_refs := 0} = py_nif:counters(),
        {0, 0, 0, Contexts} = {Requests, Refs, Pins, length(py_context:list())},
        #{contexts := Contexts} = py_nif:counters()
    end),
    eventually(fun() -> true = fds() =< Fds + 2 end),
    ok.

-spec fds() -> non_neg_integer().
fds() ->
    case file:list_dir("/proc/self/fd") of
        {ok, Fds} -> length(Fds);
        {error, _} -> 0
    end.

%% The threads of this OS process whose name starts with "py_".
-spec threads() -> [string()].
threads() ->
    {ok, Tasks} = file:list_dir("/proc/self/task"),
    Names = [file:read_file(filename:join(["/proc/self/task", T, "comm"])) || T <- Tasks],
    [string:trim(binary_to_list(N)) || {ok, <<"py_", _/binary>> = N} <- Names].

%% Returns when Fun no longer fails. For what announces itself by no message.
-spec eventually(fun(() -> Result)) -> Result.
eventually(Fun) ->
    eventually(Fun, ?WAIT_MS).

-spec eventually(fun(() -> Result), pos_integer()) -> Result.
eventually(Fun, Ms) ->
    poll(Fun, erlang:monotonic_time(millisecond) + Ms).

-spec poll(fun(() -> Result), integer()) -> Result.
poll(Fun, Until) ->
    try
        Fun()
    catch
        Class:Reason:Stack ->
            case erlang:monotonic_time(millisecond) < Until of
                true ->
                    receive
                    after 10 -> poll(Fun, Until)
                    end;
                false ->
                    erlang:raise(Class, Reason, Stack)
            end
    end.

-spec context(py_context:options()) -> pid().
context(Options) ->
    {ok, Context} = py_context:start(Options),
    Context.

%% Stops a context and waits until its threads are gone too.
-spec drop(pid()) -> ok.
drop(Context) ->
    py_context:stop(Context).

%% Writes a Python module into the suite's private directory and has it found.
-spec module([{atom(), term()}], string(), iodata()) -> atom().
module(Config, Name, Source) ->
    Dir = proplists:get_value(priv_dir, Config),
    ok = file:write_file(filename:join(Dir, Name ++ ".py"), Source),
    {ok, _} = py:call('erlang._boot', prepare, [[unicode:characters_to_binary(Dir)], []]),
    {ok, _} = py:call(importlib, invalidate_caches, []),
    list_to_atom(Name).

%% Runs Fun(1..N) in N processes at once; their results in order. One that dies fails the caller.
-spec parallel(pos_integer(), fun((pos_integer()) -> Result)) -> [Result].
parallel(N, Fun) ->
    Started = [
        erlang:spawn_monitor(fun() -> exit({result, Fun(I)}) end)
     || I <- lists:seq(1, N)
    ],
    [
        receive
            {'DOWN', Monitor, process, Pid, {result, Result}} -> Result;
            {'DOWN', Monitor, process, Pid, Reason} -> error({died, Reason})
        end
     || {Pid, Monitor} <- Started
    ].

%% A call that sleeps in C, where nothing can interrupt it, until Release(): reading a pipe. Released from elsewhere.
-spec blocker(pid()) -> {Call :: {atom(), atom(), [term()]}, Release :: fun(() -> ok)}.
blocker(Context) ->
    {ok, {Read, Write}} = py:call(Context, os, pipe, []),
    {
        {os, read, [Read, 1]},
        fun() ->
            {ok, 1} = py:call(os, write, [Write, {bytes, <<"x">>}]),
            {ok, none} = py:call(os, close, [Write]),
            %% who reads must have read before its end is closed
            eventually(fun() -> {ok, 0} = pending(Read) end),
            {ok, none} = py:call(os, close, [Read]),
            ok
        end
    }.

-spec pending(integer()) -> {ok, integer()} | {error, term()}.
pending(Fd) ->
    py:eval(
        <<"__import__('struct').unpack('i', f.ioctl(fd, t.FIONREAD, b'    '))[0]">>,
        #{fd => Fd, f => import(fcntl), t => import(termios)}
    ).

-spec import(atom()) -> py:ref().
import(Module) ->
    {ok, Ref} = py:call(importlib, import_module, [Module]),
    Ref.

%% Waits until the context runs as many requests.
-spec running({pid(), non_neg_integer()}) -> ok.
running({Context, N}) ->
    eventually(fun() ->
        #{running := Running} = py_context:info(Context),
        N = length(Running),
        ok
    end).

%% Once warm, a window goes by in which the figure grows by less than Limit: what leaks grows in every one.
-spec steady(fun(() -> integer()), pos_integer()) -> ok.
steady(Figure, Limit) ->
    _ = Figure(),
    Figures = [Figure() || _ <- lists:seq(1, 4)],
    Growth = [B - A || {A, B} <- lists:zip(lists:droplast(Figures), tl(Figures))],
    case lists:min(Growth) < Limit of
        true -> ok;
        false -> error({grows, Figures})
    end.

%% Fails when a message is in the caller's mailbox.
-spec no_messages() -> ok.
no_messages() ->
    {messages, []} = process_info(self(), messages),
    ok.

%% A process that can be a group leader: it records what is written and gives these lines to who reads.
-spec device() -> pid().
device() ->
    device([]).

-spec device([string()]) -> pid().
device(Lines) ->
    spawn_link(fun() -> device([], Lines) end).

device(Written, Lines) ->
    receive
        {io_request, From, Ref, {put_chars, unicode, Chars}} ->
            From ! {io_reply, Ref, ok},
            device([Written, Chars], Lines);
        {io_request, From, Ref, {get_line, _, _}} ->
            {Line, Rest} =
                case Lines of
                    [First | Others] -> {First, Others};
                    [] -> {eof, []}
                end,
            From ! {io_reply, Ref, Line},
            device(Written, Rest);
        {io_request, From, Ref, _} ->
            From ! {io_reply, Ref, {error, request}},
            device(Written, Lines);
        {written, From} ->
            From ! {self(), unicode:characters_to_binary(Written)}
    end.

%% What was written to a device, which ends.
-spec written(pid()) -> binary().
written(Device) ->
    Device ! {written, self()},
    receive
        {Device, Text} -> Text
    end.

%% Runs Erlang expressions in a node of its own, an OS process; {ExitStatus, Output}. It is killed after a minute.
-spec run_node([{atom(), term()}], iodata()) -> {integer() | killed, binary()}.
run_node(Config, Code) ->
    run_node(Config, Code, []).

-spec run_node([{atom(), term()}], iodata(), [{string(), string()}]) -> {integer() | killed, binary()}.
run_node(_Config, Code, Env) ->
    Paths = lists:append([["-pa", filename:dirname(code:which(M))] || M <- [py, ?MODULE]]),
    Port = erlang:open_port({spawn_executable, os:find_executable("erl")}, [
        {args, Paths ++ ["-noshell", "-eval", unicode:characters_to_list(iolist_to_binary(Code))]},
        {env, Env},
        exit_status,
        stderr_to_stdout,
        binary
    ]),
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    collect(Port, OsPid, [], erlang:start_timer(60000, self(), Port)).

collect(Port, OsPid, Output, Timer) ->
    receive
        {Port, {data, Data}} ->
            collect(Port, OsPid, [Output, Data], Timer);
        {Port, {exit_status, Status}} ->
            _ = erlang:cancel_timer(Timer),
            {Status, iolist_to_binary(Output)};
        {timeout, Timer, Port} ->
            _ = os:cmd("kill -9 " ++ integer_to_list(OsPid)),
            {killed, iolist_to_binary(Output)}
    end.
