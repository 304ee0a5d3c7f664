% What Python and Erlang have in common beside calls: messages, monitors and shared state.
-module(py_messages_SUITE).

-import(py_callback_SUITE, [context/1, run/3]).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        messages,
        message_order_is_kept,
        monitors,
        demonitor_ends_the_watcher,
        shared_state,
        shared_state_is_bounded,
        counters_are_atomic
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_testcase(Case, Config) -> py_callback_SUITE:init_per_testcase(Case, Config).
end_per_testcase(Case, Config) -> py_callback_SUITE:end_per_testcase(Case, Config).

%% ---- messages ----

messages(Config) ->
    C = context(Config),
    Self = self(),
    true = register(py_callback_tester, Self),
    {ok, none} = py:call(C, erlang, send, [Self, {<<"hello">>, [1, 2.5]}]),
    receive {<<"hello">>, [1, 2.5]} -> ok end,
    {ok, none} = py:call(C, erlang, send, [py_callback_tester, by_name]),
    receive by_name -> ok end,
    {ok, none} = py:call(C, erlang, send, [{py_callback_tester, node()}, by_node]),
    receive by_node -> ok end,
    {ok, Self} = py:call(C, erlang, whereis, [py_callback_tester]),
    {ok, none} = py:call(C, erlang, whereis, [<<"nobody of this name">>]),
    {error, {'LookupError', _}} = py:call(C, erlang, send, [<<"nobody of this name">>, x]),
    {error, {'TypeError', _}} = py:call(C, erlang, send, [1, x]),
    {Dead, Ref} = spawn_monitor(fun() -> ok end),
    receive {'DOWN', Ref, process, _, _} -> ok end,
    {ok, none} = py:call(C, erlang, send, [Dead, x]),
    {ok, none} = py:call(C, erlang, send, [{nobody, 'nowhere@nohost'}, x]),
    true = unregister(py_callback_tester).

message_order_is_kept(Config) ->
    ok = py:exec(context(Config), <<
        "def count(to, n):\n"
        "    for i in range(n):\n"
        "        erlang.send(to, i)\n"
    >>),
    {ok, none} = run(Config, count, [self(), 10000]),
    _ = [receive N -> ok after 60000 -> error({missing, N}) end || N <- lists:seq(0, 9999)],
    ok.

monitors(Config) ->
    C = context(Config),
    ok = py:exec(C, <<
        "def watch(process):\n"
        "    m = erlang.monitor(process)\n"
        "    try:\n"
        "        m.wait(0.01)\n"
        "    except TimeoutError:\n"
        "        erlang.send(process, 'end')\n"
        "    return m.wait(60), m.wait(), m.done()\n"
        "async def awatch(process):\n"
        "    m = erlang.monitor(process)\n"
        "    erlang.send(process, 'end')\n"
        "    return await m, await m\n"
        "def run_awatch(process):\n"
        "    return erlang.run(awatch(process))\n"
    >>),
    Process = fun() -> spawn(fun() -> receive <<"end">> -> exit(bye) end end) end,
    {ok, {bye, bye, true}} = run(Config, watch, [Process()]),
    {ok, {bye, bye}} = run(Config, run_awatch, [Process()]),
    {ok, noproc} = py:eval(C, <<"erlang.monitor('nobody_of_this_name').wait(60)">>).

demonitor_ends_the_watcher(Config) ->
    C = context(Config),
    Pid = spawn(fun() -> receive stop -> ok end end),
    ok = py:exec(C, <<"def start(pid):\n    global m\n    m = erlang.monitor(pid)\n">>),
    {ok, none} = run(Config, start, [Pid]),
    {monitored_by, [_]} = process_info(Pid, monitored_by),
    ok = py:exec(C, <<"erlang.demonitor(m); m.demonitor()">>),
    py_test_lib:eventually(fun() -> {monitored_by, []} = process_info(Pid, monitored_by) end),
    {error, {'RuntimeError', _}} = py:eval(C, <<"m.wait()">>),
    Pid ! stop.

%% ---- state ----

shared_state(Config) ->
    C = context(Config),
    undefined = py:state_get(none_of_these),
    ok = py:state_set({key, 1}, #{<<"a">> => [1]}),
    {ok, #{<<"a">> := [1]}} = py:call(C, erlang, state_get, [{key, 1}]),
    {ok, none} = py:eval(C, <<"erlang.state_set('s', {'x': (1, 2)})">>),
    #{<<"x">> := {1, 2}} = py:state_get(<<"s">>),
    {ok, 7} = py:eval(C, <<"erlang.state_get('missing', 7)">>),
    {ok, none} = py:eval(C, <<"erlang.state_get('missing')">>),
    {ok, 3} = py:eval(C, <<"erlang.state_incr('n', 3)">>),
    2 = py:state_decr(<<"n">>),
    {ok, 1} = py:eval(C, <<"erlang.state_decr('n')">>),
    [{key, 1}, <<"n">>, <<"s">>] = lists:sort(py:state_keys()),
    {ok, 3} = py:eval(C, <<"len(erlang.state_keys())">>),
    {error, {'ErlangError', _}} = py:eval(C, <<"erlang.state_incr('s')">>),
    {ok, none} = py:eval(C, <<"erlang.state_delete('s')">>),
    _ = [py:state_delete(K) || K <- py:state_keys()],
    [] = py:state_keys().

shared_state_is_bounded(Config) ->
    ok = application:set_env(erlang_python, state_max_keys, 2),
    try
        ok = py:state_set(a, 1),
        1 = py:state_incr(b),
        {error, full} = py:state_set(c, 1),
        {error, full} = py:state_incr(c),
        ok = py:state_set(a, 2),
        {error, {'ErlangError', #{erlang := {error, state_full, _}}}} =
            py:eval(context(Config), <<"erlang.state_set('c', 1)">>)
    after
        application:unset_env(erlang_python, state_max_keys),
        [py:state_delete(K) || K <- py:state_keys()]
    end.

counters_are_atomic(Config) ->
    ok = py:exec(context(Config), <<"def many(n):\n    for _ in range(n): erlang.state_incr('n')\n">>),
    Ref = py:spawn_call(context(Config), '__main__', many, [2000]),
    _ = py_test_lib:parallel(4, fun(_) -> [py:state_incr(<<"n">>) || _ <- lists:seq(1, 2000)], ok end),
    {ok, none} = py:await(Ref),
    10000 = py:state_get(<<"n">>),
    ok = py:state_delete(<<"n">>).
