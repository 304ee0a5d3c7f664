%% The Erlang node of a context with isolation => node: an OS process of its own. On this side a process that owns the
%% port of that OS process, in the other node the process that its first lines are.
%%
%% It is not OTP's `peer`: that one either detaches the node, so that exit status and what C code prints are lost, or
%% speaks over its standard output, where the first accented letter that a subprocess of Python's prints ends it. Here
%% standard output and error are output, the exit status is known, and standard input is the lifeline: when this node
%% dies, however it dies, the other one reads the end of its input and halts. The configuration, with the cookie, comes
%% by standard input too, where no command line shows it.
-module(py_peer).
-behaviour(gen_server).

-export([start_link/1]).
-export([stop/1]).
-export([boot/0]).

-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-export_type([options/0]).
-export_type([up/0]).

%% python: an executable or a virtual environment; default: this node's. code_path: in front of this node's code path,
%% for another build of this application. env: environment variables, false removes one. args: of the emulator.
%% wrap: a program and its arguments that runs the emulator, as ["prlimit", "--as=4000000000"].
-type options() :: #{
    python => file:name_all(),
    code_path => [file:filename()],
    env => [{string(), string() | false}],
    args => [string()],
    wrap => [string()],
    boot_ms => pos_integer()
}.
-type up() :: {ok, pid(), node(), OsPid :: pos_integer()}.

-define(BOOT_MS, 60000).
-define(LEAVE_MS, 8000). %% Python may take 5 s for its end
-define(KILL_MS, 10000).
-define(SLOTS, 4096).
-define(SHOWN_BYTES, 2000).
%% What makes distribution work here makes it work there.
-define(FLAGS, [proto_dist, ssl_dist_opt, ssl_dist_optfile, epmd_module, erl_epmd_port]).
-define(KERNEL, [
    inet_dist_use_interface, inet_dist_listen_options, inet_dist_connect_options, net_ticktime, net_tickintensity
]).

-record(state, {
    port :: port(),
    os_pid :: pos_integer(),
    node :: node(),
    slot :: non_neg_integer(),
    open = <<>> :: binary() %% the end of the output, a line without its newline
}).

%% Starts a node and waits until the application runs there. The process ends when the node does, with
%% {shutdown, {exit_status, N}}; N is 128 + the signal where that was what ended it.
-spec start_link(options()) -> up() | {error, term()}.
start_link(Options) ->
    case is_alive() of
        true ->
            case gen_server:start_link(?MODULE, Options, [{timeout, infinity}]) of
                {ok, Pid} ->
                    {Node, OsPid} = gen_server:call(Pid, where, infinity),
                    {ok, Pid, Node, OsPid};
                {error, {shutdown, Reason}} ->
                    {error, Reason};
                {error, Reason} ->
                    {error, Reason}
            end;
        false ->
            {error, {not_alive, <<"isolation => node needs distribution: start this node with -sname or -name">>}}
    end.

%% Returns when the OS process is gone. Python's atexit callbacks run.
-spec stop(pid()) -> ok.
stop(Pid) ->
    Monitor = monitor(process, Pid),
    ok = gen_server:cast(Pid, stop),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end.

-spec init(options()) -> {ok, #state{}} | {stop, {shutdown, term()}}.
init(Options) ->
    process_flag(trap_exit, true),
    Slot = slot(),
    Node = name(Slot),
    {Program, Args} = command(Options),
    case os:find_executable(Program) of
        false ->
            {stop, {shutdown, {enoent, Program}}};
        Executable ->
            Port = open_port({spawn_executable, Executable}, [
                {args, Args}, {env, environment(Options)}, exit_status, stderr_to_stdout, binary, hide
            ]),
            {os_pid, OsPid} = erlang:port_info(Port, os_pid),
            _ = told(Port, configuration(Node, Options)),
            State = #state{port = Port, os_pid = OsPid, node = Node, slot = Slot},
            Timer = erlang:start_timer(maps:get(boot_ms, Options, ?BOOT_MS), self(), boot),
            wait_up(State, Timer, <<>>)
    end.

-spec wait_up(#state{}, reference(), binary()) -> {ok, #state{}} | {stop, {shutdown, term()}}.
wait_up(#state{port = Port, node = Node} = State, Timer, Output) ->
    receive
        {py_peer, Node, {up, OsPid}} ->
            _ = erlang:cancel_timer(Timer),
            print(Output),
            {ok, State#state{os_pid = OsPid}}; %% a wrapper may have another
        {py_peer, Node, {failed, Reason}} ->
            {stop, {shutdown, finish(State, Reason)}};
        {Port, {data, Data}} ->
            wait_up(State, Timer, <<Output/binary, Data/binary>>);
        {Port, {exit_status, Status}} ->
            {stop, {shutdown, gone(State, {exit_status, Status, tail(Output)})}};
        {timeout, Timer, boot} ->
            {stop, {shutdown, kill(State, {boot_timeout, tail(Output)})}};
        {'EXIT', Pid, Reason} when is_pid(Pid) ->
            {stop, {shutdown, kill(State, Reason)}}
    end.

-spec handle_call(where, gen_server:from(), #state{}) -> {reply, {node(), pos_integer()}, #state{}}.
handle_call(where, _From, #state{node = Node, os_pid = OsPid} = State) ->
    {reply, {Node, OsPid}, State}.

-spec handle_cast(stop, #state{}) -> {stop, normal, #state{}}.
handle_cast(stop, State) ->
    {stop, normal, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({Port, {data, Data}}, #state{port = Port, open = Open} = State) ->
    {Whole, Rest} = lines(<<Open/binary, Data/binary>>),
    print(Whole),
    {noreply, State#state{open = Rest}};
handle_info({Port, {exit_status, Status}}, #state{port = Port} = State) ->
    {stop, {shutdown, {exit_status, Status}}, State};
handle_info({'EXIT', Port, _}, #state{port = Port} = State) ->
    {stop, {shutdown, {exit_status, unknown}}, State};
handle_info({'EXIT', Pid, Reason}, State) when is_pid(Pid) ->
    {stop, Reason, State};
handle_info(_Info, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate({shutdown, {exit_status, _} = Reason}, #state{open = Open} = State) ->
    print(Open),
    _ = gone(State, Reason),
    ok;
terminate(Reason, #state{open = Open} = State) ->
    print(Open),
    _ = finish(State, Reason),
    ok.

%% Ends the OS process: it is told to, and after some seconds it is killed.
-spec finish(#state{}, Reason) -> Reason.
finish(#state{port = Port} = State, Reason) ->
    case ended(Port, 0) orelse (told(Port, leave) andalso ended(Port, ?LEAVE_MS)) of
        true -> gone(State, Reason);
        false -> kill(State, Reason)
    end.

-spec kill(#state{}, Reason) -> Reason.
kill(#state{port = Port, os_pid = OsPid} = State, Reason) ->
    _ = os:cmd("kill -9 " ++ integer_to_list(OsPid)),
    _ = ended(Port, ?KILL_MS),
    gone(State, Reason).

-spec gone(#state{}, Reason) -> Reason.
gone(#state{slot = Slot}, Reason) ->
    true = ets:delete(py_node, {slot, Slot}),
    Reason.

-spec ended(port(), timeout()) -> boolean().
ended(Port, Timeout) ->
    receive
        {Port, {exit_status, _}} -> true;
        {'EXIT', Port, _} -> true;
        {Port, {data, Data}} -> print(Data), ended(Port, Timeout)
    after Timeout -> false
    end.

%% ---- what the node says ----

-spec lines(binary()) -> {binary(), binary()}.
lines(Data) ->
    case binary:matches(Data, <<"\n">>) of
        [] when byte_size(Data) < 65536 -> {<<>>, Data};
        [] -> {Data, <<>>};
        Found -> {At, 1} = lists:last(Found), split_binary(Data, At + 1)
    end.

-spec print(binary()) -> ok.
print(<<>>) ->
    ok;
print(Data) ->
    Text =
        case unicode:characters_to_binary(Data) of
            Utf8 when is_binary(Utf8) -> Utf8;
            _ -> unicode:characters_to_binary(Data, latin1)
        end,
    try
        io:put_chars(user, Text)
    catch
        error:_ -> ok %% this node has nobody to show it to
    end.

-spec tail(binary()) -> binary().
tail(Output) when byte_size(Output) > ?SHOWN_BYTES -> binary:part(Output, byte_size(Output), -?SHOWN_BYTES);
tail(Output) -> Output.

%% ---- how it is started ----

%% Names are atoms: they are used again.
-spec slot() -> non_neg_integer().
slot() ->
    Slot = ets:update_counter(py_node, slots, {2, 1, ?SLOTS - 1, 0}, {slots, 0}),
    case ets:insert_new(py_node, {{slot, Slot}, self()}) of
        true -> Slot;
        false -> slot()
    end.

%% Nobody else's: this node's name is its own where epmd keeps it, and its creation that of this start. An OS pid is not,
%% since containers that share a network count their own.
-spec name(non_neg_integer()) -> node().
name(Slot) ->
    [Name, Host] = string:split(atom_to_list(node()), "@"),
    list_to_atom(lists:concat(["py-", Name, "-", erlang:system_info(creation), "-", Slot, "@", Host])).

-spec command(options()) -> {file:filename(), [string()]}.
command(Options) ->
    Erl = filename:join(bin_dir(), "erlexec"),
    Args =
        ["-noinput", "-hidden", "-setcookie", binary_to_list(binary:encode_hex(placeholder()))] ++
            boot_script(code:root_dir()) ++
            lists:append([flag(F) || F <- ?FLAGS]) ++
            ["-pa", filename:absname(filename:dirname(code:which(?MODULE)))] ++
            maps:get(args, Options, []) ++ ["-s", atom_to_list(?MODULE), "boot"],
    case maps:get(wrap, Options, []) of
        [] -> {Erl, Args};
        [Program | Before] -> {Program, Before ++ [Erl | Args]}
    end.

%% Of the emulator that runs this node, or, in a program of erlpy, of its release.
-spec bin_dir() -> file:filename().
bin_dir() ->
    Own = os:getenv("BINDIR", ""),
    case filelib:is_regular(filename:join(Own, "erlexec")) of
        true -> Own;
        false -> filename:join([code:root_dir(), "erts-" ++ erlang:system_info(version), "bin"])
    end.

%% What stands in the command line until the real cookie is set.
-spec placeholder() -> binary().
placeholder() ->
    erlang:md5(term_to_binary({make_ref(), erlang:get_cookie(), os:system_time(), rand:uniform(1 bsl 58)})).

%% A release has no start.boot where the emulator looks for one.
-spec boot_script(file:filename()) -> [string()].
boot_script(Root) ->
    Found = [
        filename:rootname(File)
     || Pattern <- [["bin", "start_clean.boot"], ["releases", "*", "start_clean.boot"]],
        File <- lists:sort(filelib:wildcard(filename:join([Root | Pattern])))
    ],
    case Found of
        [] -> [];
        [Boot | _] -> ["-boot", Boot, "-boot_var", "RELEASE_LIB", filename:join(Root, "lib")]
    end.

-spec flag(atom()) -> [string()].
flag(Flag) ->
    case init:get_argument(Flag) of
        {ok, Values} -> lists:append([["-" ++ atom_to_list(Flag) | Value] || Value <- Values]);
        error -> []
    end.

%% Without the flags that made this node what it is: its name may be among them.
-spec environment(options()) -> [{string(), string() | false}].
environment(Options) ->
    [
        {"ROOTDIR", code:root_dir()},
        {"BINDIR", bin_dir()},
        {"EMU", "beam"},
        {"PROGNAME", "erl"},
        {"ERL_FLAGS", false},
        {"ERL_AFLAGS", false},
        {"ERL_ZFLAGS", false}
        | maps:get(env, Options, [])
    ].

-spec configuration(node(), options()) -> map().
configuration(Node, Options) ->
    Env = application:get_all_env(erlang_python),
    %% its default context is a plain one; this node's may well be such a node
    Default = maps:with([threads, spin_us], proplists:get_value(default_context, Env, #{})),
    Python = [{python, P} || #{python := P} <- [Options]],
    #{
        keeper => self(),
        node => Node,
        names => case net_kernel:longnames() of true -> longnames; _ -> shortnames end,
        cookie => erlang:get_cookie(),
        kernel => [{K, V} || K <- ?KERNEL, {ok, V} <- [application:get_env(kernel, K)]],
        code_path => [filename:absname(P) || P <- maps:get(code_path, Options, []) ++ code:get_path(), P =/= "."],
        log_level => maps:get(level, logger:get_primary_config()),
        env => Python ++ [{default_context, Default}, {home, node()}, {program, false} | Env]
    }.

%% false when it has just ended.
-spec told(port(), term()) -> boolean().
told(Port, Term) ->
    Data = term_to_binary(Term),
    try
        port_command(Port, [<<(byte_size(Data)):32>>, Data])
    catch
        error:badarg -> false
    end.

%% ---- in the other node ----

-spec boot() -> ok.
boot() ->
    _ = spawn(fun booted/0),
    ok.

-spec booted() -> no_return().
booted() ->
    Port = open_port({fd, 0, 0}, [in, binary, eof, {packet, 4}]),
    receive
        {Port, {data, Config}} ->
            _ = spawn(fun() -> setup(binary_to_term(Config)) end),
            wait_end(Port);
        {Port, eof} ->
            erlang:halt(1)
    end.

-spec wait_end(port()) -> no_return().
wait_end(Port) ->
    receive
        {Port, eof} -> erlang:halt(0, [{flush, false}]);
        {Port, {data, _Leave}} ->
            %% init:stop/0 takes a second
            _ = application:stop(erlang_python),
            erlang:halt(0)
    end.

-spec setup(map()) -> ok.
setup(#{keeper := Keeper, node := Node, names := Names, cookie := Cookie} = Config) ->
    #{kernel := Kernel, code_path := Path, log_level := Level, env := Env} = Config,
    try
        _ = logger:set_primary_config(level, Level),
        ok = code:add_pathsa(lists:reverse(Path)),
        ok = application:set_env([{kernel, Kernel}]),
        {ok, _} = net_kernel:start(Node, #{name_domain => Names}),
        true = erlang:set_cookie(Cookie),
        connected = connect(node(Keeper)),
        ok = loaded(application:load(erlang_python)),
        [ok = application:set_env(erlang_python, Key, Value) || {Key, Value} <- lists:reverse(Env)],
        Up =
            case application:ensure_all_started(erlang_python) of
                {ok, _} -> {up, list_to_integer(os:getpid())};
                {error, Reason} -> {failed, Reason}
            end,
        Keeper ! {py_peer, Node, Up},
        ok
    catch
        Class:Why:Stack ->
            io:format("~ts~n", [erl_error:format_exception(Class, Why, Stack)]),
            erlang:halt(1)
    end.

-spec connect(node()) -> connected | {not_connected, node()}.
connect(Host) ->
    case net_kernel:connect_node(Host) of
        true -> connected;
        _ -> {not_connected, Host}
    end.

-spec loaded(ok | {error, term()}) -> ok | {error, term()}.
loaded({error, {already_loaded, _}}) -> ok;
loaded(Result) -> Result.
