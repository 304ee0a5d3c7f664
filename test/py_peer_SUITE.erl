%% Nodes that are started for a context: their options, what they survive, and that no OS process stays behind.
-module(py_peer_SUITE).

-include_lib("stdlib/include/assert.hrl").

-import(py_node_lib, [os_pid/1, alive/1, gone/1, kill/1, ended/2]).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 3}}].

all() ->
    [
        options_are_checked,
        needs_distribution,
        failed_preload_refuses_the_start,
        names_are_unique,
        segfault_answers_open_requests,
        exit_and_kill_leave_the_rest,
        named_context_comes_back,
        restarts_have_an_end,
        killed_under_load,
        owner_killed,
        frozen_node_stalls_nobody,
        environment_and_wrapper,
        virtual_environment,
        atexit_runs,
        node_that_does_not_start,
        no_os_process_is_left,
        host_killed_leaves_no_orphan,
        default_context_elsewhere
    ].

init_per_suite(Config) -> py_node_lib:start(Config).
end_per_suite(Config) -> py_node_lib:stop(Config).

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages().

options_are_checked(_) ->
    [
        ?assertEqual({error, {bad_option, Bad}}, py_context:start(Options), Options)
     || {Bad, Options} <- [
            {{isolation, process}, #{isolation => process}},
            {{isolation, {node, "x"}}, #{isolation => {node, "x"}}},
            {{threads, 0}, #{isolation => node, threads => 0}},
            {{restart, always}, #{isolation => node, restart => always}},
            {{wrap, "nice"}, #{isolation => node, wrap => "nice"}},
            {{env, [x]}, #{isolation => node, env => [x]}},
            {{python, 1}, #{isolation => node, python => 1}},
            {restart, #{restart => permanent}},
            {wrap, #{isolation => {node, node()}, wrap => ["nice"]}}
        ]
    ].

needs_distribution(Config) ->
    {0, Output} = py_test_lib:run_node(Config, "
        {ok, _} = application:ensure_all_started(erlang_python),
        {error, {not_alive, Text}} = py_context:start(#{isolation => node}),
        process_flag(trap_exit, true),
        {error, {not_alive, Text}} = py_context:start_link(#{isolation => node}),
        io:put_chars(Text),
        halt(0)."),
    {match, _} = re:run(Output, "-sname").

failed_preload_refuses_the_start(_) ->
    {error, {preload, {'ModuleNotFoundError', _}}} =
        py_context:start(#{isolation => node, preload => [no_such_module_here]}).

names_are_unique(_) ->
    {error, {already_started, _}} = py_context:start(#{isolation => node, name => default}).

segfault_answers_open_requests(_) ->
    %% a checker is to leave it alone
    Env = [{Name, os:getenv(Name, "") ++ ":handle_segv=0"} || Name <- ["ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"]],
    C = py_test_lib:context(#{isolation => node, threads => 2, env => Env}),
    OsPid = os_pid(C),
    Sleeping = [py:spawn_call(C, time, sleep, [1000]) || _ <- [1, 2, 3]],
    Async = py:async_call(C, asyncio, sleep, [1000]),
    {ok, Stream} = py:stream_start(C, itertools, count, [], #{credit => 0}),
    Gather = spawn_monitor(fun() -> exit(py:async_gather(C, [{asyncio, sleep, [1000]}])) end),
    py_test_lib:eventually(fun() -> #{loop_requests := 2} = py_context:info(C) end),
    {node_down, {exit_status, 139}} = ended(C, fun() ->
        {error, stopped} = py:async_await(py:async_call(C, ctypes, string_at, [0]))
    end),
    [{error, stopped} = py:await(R) || R <- [Async | Sleeping]],
    receive {py_stream, Stream, {error, stopped}} -> ok end,
    {Pid, Monitor} = Gather,
    receive {'DOWN', Monitor, process, Pid, {error, stopped}} -> ok end,
    {error, noproc} = py:call(C, math, sqrt, [1]),
    {error, noproc} = py:cast(C, math, sqrt, [1]),
    {error, noproc} = py:stream_start(C, builtins, range, [1]),
    {error, noproc} = py:await(py:spawn_call(C, math, sqrt, [1])),
    undefined = py_context:info(C),
    gone(OsPid),
    {ok, 2.0} = py:call(math, sqrt, [4]).

exit_and_kill_leave_the_rest(_) ->
    Other = py_test_lib:context(#{isolation => node}),
    [
        begin
            C = py_test_lib:context(#{isolation => node, name => victim}),
            OsPid = os_pid(C),
            ?assertEqual({node_down, {exit_status, Status}}, ended(C, fun() -> Kill(C, OsPid) end)),
            gone(OsPid),
            {ok, 1} = py:eval(Other, <<"1">>)
        end
     || {Status, Kill} <- [
            {7, fun(C, _) -> {error, stopped} = py:call(C, os, '_exit', [7]) end},
            {137, fun(_, OsPid) -> kill(OsPid) end},
            {134, fun(C, _) -> {error, stopped} = py:call(C, os, abort, []) end}
        ]
    ],
    py_context:stop(Other).

named_context_comes_back(_) ->
    C = py_test_lib:context(#{isolation => node, name => phoenix, restart => permanent, preload => [json]}),
    ok = py:exec(C, <<"x = 1">>),
    First = os_pid(C),
    {ok, Lost} = py:call(C, builtins, object, []),
    Waiting = py:spawn_call(C, time, sleep, [1000]),
    kill(First),
    {error, stopped} = py:await(Waiting),
    C = py:context(phoenix),
    {ok, Second} = py:call(C, os, getpid, []),
    ?assertNotEqual(First, Second),
    {error, {'NameError', _}} = py:eval(C, <<"x">>),
    {ok, _} = py:call(C, builtins, object, []),
    {error, {'ValueError', #{message := <<"the object of this reference is gone with its node">>}}} =
        py:call(C, builtins, id, [Lost]),
    {ok, true} = py:eval(C, <<"'json' in __import__('sys').modules">>),
    {error, stopped} = py:call(C, os, '_exit', [1]),
    Third = os_pid(C),
    [gone(P) || P <- [First, Second]],
    py_context:stop(C),
    gone(Third),
    %% the same by a supervisor
    {ok, Sup} = supervisor:start_link(?MODULE, []),
    D = py:context(supervised),
    kill(os_pid(D)),
    py_test_lib:eventually(fun() ->
        E = py:context(supervised),
        true = E =/= D,
        {ok, 1} = py:eval(E, <<"1">>)
    end),
    true = unlink(Sup),
    exit(Sup, shutdown),
    py_test_lib:eventually(fun() -> undefined = py:context(supervised) end).

init([]) ->
    Options = #{isolation => node, name => supervised},
    {ok, {#{}, [#{id => context, start => {py_context, start_link, [Options]}, shutdown => 10000}]}}.

restarts_have_an_end(_) ->
    C = py_test_lib:context(#{isolation => node, restart => permanent}),
    {node_down, {exit_status, 1}} = ended(C, fun() ->
        [{error, stopped} = py:call(C, os, '_exit', [1]) || _ <- lists:seq(1, 6)]
    end).

%% Each request has its one answer, whatever becomes of the node meanwhile.
killed_under_load(_) ->
    C = py_test_lib:context(#{isolation => node, restart => permanent, threads => 4}),
    Self = self(),
    Callers = [
        spawn_monitor(fun() ->
            Answers = [
                begin
                    Call = py:call(C, builtins, abs, [-I]),
                    Refs = [py:spawn_call(C, builtins, abs, [-I]), py:async_call(C, builtins, abs, [-I])],
                    Gathered = py:async_gather(C, [{builtins, abs, [-I]}]),
                    _ = I rem 20 =:= 0 andalso (Self ! {reached, I}),
                    [{I, Answer} || Answer <- [Call, Gathered | [py:await(R) || R <- Refs]]]
                end
             || I <- lists:seq(1, 100)
            ],
            py_test_lib:no_messages(),
            exit({answers, lists:append(Answers)})
        end)
     || _ <- lists:seq(1, 20)
    ],
    %% once they are under way, twice more while they go on
    _ = [begin receive {reached, At} -> ok end, kill(os_pid_of(C)) end || At <- [20, 40, 60]],
    All = lists:append([
        receive
            {'DOWN', Monitor, process, Pid, {answers, Answers}} -> Answers
        end
     || {Pid, Monitor} <- Callers
    ]),
    8000 = length(All),
    Odd = [A || {I, A} <- All, A =/= {ok, I}, A =/= {ok, [I]}, A =/= {error, stopped}],
    ?assertEqual([], Odd),
    Stopped = length([1 || {_, {error, stopped}} <- All]),
    true = Stopped > 0 andalso Stopped < 4000,
    flush_reached(),
    py_context:stop(C).

%% Of the node that is there now; a request may be caught by the end of the one before.
os_pid_of(C) ->
    case py:call(C, os, getpid, []) of
        {ok, OsPid} -> OsPid;
        {error, stopped} -> os_pid_of(C)
    end.

flush_reached() ->
    receive {reached, _} -> flush_reached()
    after 0 -> ok
    end.

owner_killed(_) ->
    C = py_test_lib:context(#{isolation => node}),
    OsPid = os_pid(C),
    Refs = [py:spawn_call(C, time, sleep, [1000]) || _ <- [1, 2]],
    killed = ended(C, fun() -> exit(C, kill) end),
    [{error, stopped} = py:await(R) || R <- Refs],
    gone(OsPid).

%% As a machine that swaps, or a network that is gone but does not say so.
frozen_node_stalls_nobody(_) ->
    C = py_test_lib:context(#{isolation => node}),
    OsPid = os_pid(C),
    _ = os:cmd("kill -STOP " ++ integer_to_list(OsPid)),
    {ok, Grace} = application:get_env(erlang_python, grace_ms),
    ok = application:set_env(erlang_python, grace_ms, 0),
    {error, {timeout, abandoned}} = py:call(C, builtins, abs, [-1], #{}, 10),
    ok = application:set_env(erlang_python, grace_ms, Grace),
    {error, timeout} = py:await(py:spawn_call(C, builtins, abs, [-2]), 10),
    undefined = py_context:info(C),
    #{running_contexts := _} = py:info(),
    _ = os:cmd("kill -CONT " ++ integer_to_list(OsPid)),
    {ok, 3} = py:call(C, builtins, abs, [-3]),
    %% and one that does not go by itself is killed
    _ = os:cmd("kill -STOP " ++ integer_to_list(OsPid)),
    py_context:stop(C),
    false = alive(OsPid).

environment_and_wrapper(_) ->
    C = py_test_lib:context(#{
        isolation => node, env => [{"OF_THE_SUITE", "ü"}], wrap => ["prlimit", "--nofile=512"], args => ["+S", "1:1"]
    }),
    {ok, <<"ü"/utf8>>} = py:eval(C, <<"__import__('os').environ['OF_THE_SUITE']">>),
    {ok, {512, 512}} = py:call(C, resource, getrlimit, [7]),
    #{node := Node} = py_context:info(C),
    1 = erpc:call(Node, erlang, system_info, [schedulers]),
    py_context:stop(C).

virtual_environment(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "venv"),
    {ok, Python} = py_env:executable(),
    [] = os:cmd(unicode:characters_to_list(Python) ++ " -m venv --without-pip " ++ Dir),
    C = py_test_lib:context(#{isolation => node, python => Dir}),
    {ok, Prefix} = py:eval(C, <<"__import__('sys').prefix">>),
    ?assertEqual(unicode:characters_to_binary(Dir), Prefix),
    {ok, Other} = py:eval(<<"__import__('sys').prefix">>),
    ?assertNotEqual(Prefix, Other),
    py_context:stop(C).

atexit_runs(Config) ->
    File = filename:join(proplists:get_value(priv_dir, Config), "atexit"),
    C = py_test_lib:context(#{isolation => node}),
    ok = py:exec(C, ["import atexit\n@atexit.register\ndef end():\n    open('", File, "', 'w').write('ended')"]),
    py_context:stop(C),
    {ok, <<"ended">>} = file:read_file(File).

node_that_does_not_start(_) ->
    Fails = ["sh", "-c", "echo no; exit 3"],
    {error, {exit_status, 3, <<"no\n">>}} = py_context:start(#{isolation => node, wrap => Fails}),
    {error, {enoent, "no_such_program"}} = py_context:start(#{isolation => node, wrap => ["no_such_program"]}),
    Hangs = ["sh", "-c", "exec sleep 1000"],
    {error, {boot_timeout, _}} = py_context:start(#{isolation => node, wrap => Hangs, boot_ms => 100}),
    {error, {erlang_python, {<<"/no/such/python", _/binary>>, _}}} =
        py_context:start(#{isolation => node, python => "/no/such/python"}).

no_os_process_is_left(_) ->
    OsPids = [
        begin
            C = py_test_lib:context(#{isolation => node}),
            OsPid = os_pid(C),
            true = alive(OsPid),
            py_context:stop(C),
            false = alive(OsPid),
            OsPid
        end
     || _ <- lists:seq(1, 10)
    ],
    Cs = py_test_lib:parallel(10, fun(_) -> py_test_lib:context(#{isolation => node}) end),
    More = [os_pid(C) || C <- Cs],
    py_test_lib:parallel(10, fun(I) -> py_context:stop(lists:nth(I, Cs)) end),
    ?assertEqual([], [P || P <- More, alive(P)]),
    20 = length(lists:usort(OsPids ++ More)).

host_killed_leaves_no_orphan(Config) ->
    Name = "py_host_" ++ os:getpid() ++ "@127.0.0.1",
    {137, Output} = py_test_lib:run_node(Config, ["
        {ok, _} = net_kernel:start(['", Name, "', longnames]),
        {ok, _} = application:ensure_all_started(erlang_python),
        {ok, C} = py_context:start(#{isolation => node}),
        {ok, OsPid} = py:call(C, os, getpid, []),
        io:format(\"<~b>\", [OsPid]),
        ok = py:exec(C, <<\"def forever():\n    while True: pass\">>),
        _ = py:spawn_call(C, '__main__', forever, []),
        os:cmd(\"kill -9 \" ++ os:getpid())."]),
    {match, [OsPid]} = re:run(Output, "<(\\d+)>", [{capture, all_but_first, list}]),
    gone(list_to_integer(OsPid)).

default_context_elsewhere(_) ->
    ok = application:stop(erlang_python),
    ok = application:set_env(erlang_python, default_context, #{isolation => node, restart => permanent}),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, OsPid} = py:call(os, getpid, []),
    ?assertNotEqual(os:getpid(), integer_to_list(OsPid)),
    {error, stopped} = py:call(os, '_exit', [1]),
    {ok, 4.0} = py:call(math, sqrt, [16]),
    {ok, <<"3.", _/binary>>} = py:version(),
    {ok, _} = py:reload(json),
    ok = application:stop(erlang_python),
    ok = application:unset_env(erlang_python, default_context),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, _} = py:stacks(),
    {ok, Here} = py:call(os, getpid, []),
    ?assertEqual(os:getpid(), integer_to_list(Here)).
