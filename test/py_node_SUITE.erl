%% Contexts on other nodes: the same API. What becomes of them when they crash is in py_peer_SUITE.
-module(py_node_SUITE).

-include_lib("stdlib/include/assert.hrl").

-import(py_node_lib, [os_pid/1, alive/1, gone/1, kill/1, ended/2]).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 3}}].

all() ->
    [{group, one}, {group, elsewhere}].

groups() ->
    [
        {one, [], [
            is_an_os_process_of_its_own,
            same_answers_as_here,
            requests_run_in_their_order,
            kwargs_and_options_cross,
            deadline_stops_python,
            stuck_in_c_is_abandoned,
            interrupt,
            await_over_its_time_leaves_no_message,
            caller_killed_stops_python,
            many_callers_at_once,
            queue_is_bounded,
            async_calls,
            gather_and_map,
            stream_with_credit,
            stream_cancelled,
            stream_of_a_dead_owner,
            stream_asks_for_whom_it_runs,
            loop_is_started_and_stopped,
            refs_live_while_they_are_held,
            refs_are_of_their_node,
            refs_in_callbacks_and_streams,
            runtime_of_the_other_node,
            functions_of_this_node,
            functions_call_back,
            funs_and_apply,
            state_is_shared,
            killed_function_raises,
            messages_and_self,
            output_goes_to_the_caller,
            logs_come_here,
            telemetry
        ]},
        {elsewhere, [], [
            context_on_a_running_node,
            node_goes_down,
            nodes_that_will_not_do
        ]}
    ].

init_per_suite(Config) -> py_node_lib:start(Config).
end_per_suite(Config) -> py_node_lib:stop(Config).

init_per_group(one, Config) ->
    C = py_test_lib:context(#{isolation => node, name => there, threads => 4}),
    ok = py:exec(C, <<"def forever():\n    while True: pass">>),
    [{context, C} | Config];
init_per_group(_, Config) ->
    Config.

end_per_group(one, Config) ->
    py_context:stop(context(Config));
end_per_group(_, _) ->
    ok.

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages().

context(Config) ->
    proplists:get_value(context, Config).

%% ---- one context, on a node of its own ----

is_an_os_process_of_its_own(Config) ->
    C = context(Config),
    C = py:context(there),
    OsPid = os_pid(C),
    ?assertNotEqual(os:getpid(), integer_to_list(OsPid)),
    #{pid := C, name := there, node := Node, max_threads := 4} = py_context:info(C),
    ?assertNotEqual(node(), Node),
    ?assertEqual([], [N || N <- nodes(), N =:= Node]), %% hidden: it is no member of the cluster
    #{running_contexts := Infos} = py:info(),
    [_] = [1 || #{pid := P} <- Infos, P =:= C].

same_answers_as_here(Config) ->
    C = context(Config),
    Here = py_test_lib:context(#{}),
    [
        ?assertEqual(Do(Here), Do(C), N)
     || {N, Do} <- [
            {1, fun(X) -> py:call(X, operator, add, [3, 5]) end},
            {2, fun(X) -> py:call(X, os, 'path.join', [<<"a">>, <<"b">>]) end},
            {3, fun(X) -> py:eval(X, <<"(x, [y, {'a': None}])">>, #{x => 1 bsl 200, y => 0.5}) end},
            {4, fun(X) -> py:exec(X, <<"def f(x, y=2): return x * y">>) end},
            {5, fun(X) -> py:call(X, '__main__', f, [4], #{y => 3}) end},
            {6, fun(X) -> py:await(py:spawn_call(X, '__main__', f, [4])) end},
            {7, fun(X) -> py:call(X, '__main__', f, [binary:copy(<<"x">>, 100000)]) end},
            {8, fun(X) -> py:call(X, no_such_module, f, []) end},
            {9, fun(X) -> py:eval(X, <<"1 / 0">>) end},
            {10, fun(X) -> py:eval(X, <<"f(">>) end},
            {11, fun(X) -> py:stream(X, builtins, range, [300]) end},
            {12, fun(X) -> py:stream_eval(X, <<"(i * n for i in range(3))">>, #{n => 2}) end},
            {13, fun(X) -> py:stream(X, builtins, int, [<<"x">>]) end},
            {14, fun(X) -> py:async_gather(X, [{asyncio, sleep, [0, 1]}, {builtins, int, [<<"x">>]}]) end},
            {15, fun(X) -> py:map(X, math, sqrt, [[1], [4], [-1]]) end},
            {16, fun(X) -> py:map(X, asyncio, sleep, [[0, 1], [0, 2]]) end},
            {17, fun(X) -> {ok, _} = py:call(X, json, dumps, [1]), py:reload(X, json) end},
            {18, fun(X) -> py:eval(X, <<"x">>, #{x => [self(), make_ref, 'an atom', <<1:3>>, [1 | 2]]}) end},
            {19, fun(X) -> py:call(X, '__main__', f, [4], #{}, #{timeout => 1000, binaries => bytes}) end},
            {20, fun(X) -> py:interrupt(X) end},
            {21, fun(X) -> py:async_await(py:async_call(X, asyncio, sleep, [0, done])) end}
        ]
    ],
    py_context:stop(Here).

requests_run_in_their_order(Config) ->
    C = py_test_lib:context(#{isolation => {node, maps:get(node, py_context:info(context(Config)))}}),
    ok = py:exec(C, <<"seen = []">>),
    Refs = [
        begin
            ok = py:cast(C, '__main__', 'seen.append', [N]),
            py:spawn_call(C, '__main__', 'seen.append', [N + 1])
        end
     || N <- lists:seq(0, 198, 2)
    ],
    {ok, Seen} = py:eval(C, <<"seen">>),
    ?assertEqual(lists:seq(0, 199), Seen),
    [{ok, none} = py:await(R) || R <- Refs],
    py_context:stop(C).

kwargs_and_options_cross(Config) ->
    C = context(Config),
    {ok, [3, 2, 1]} = py:call(C, builtins, sorted, [[1, 3, 2]], #{reverse => true}),
    {ok, <<"bytes">>} = py:eval(C, <<"type(x).__name__">>, #{x => <<"a">>}, #{binaries => bytes}),
    ?assertError({bad_timeout, -1}, py:call(C, math, sqrt, [1], #{}, -1)),
    ?assertError({bad_option, _}, py:call(C, math, sqrt, [1], #{}, #{no => 1})).

deadline_stops_python(Config) ->
    C = context(Config),
    {error, timeout} = py:exec(C, <<"while True: pass">>, 100),
    {error, timeout} = py:await(py:spawn_call(C, '__main__', forever, []), 100),
    py_test_lib:running({C, 0}).

stuck_in_c_is_abandoned(Config) ->
    C = context(Config),
    {{M, F, A}, Release} = blocker(C),
    #{node := Node} = py_context:info(C),
    {ok, Grace} = application:get_env(erlang_python, grace_ms),
    ok = erpc:call(Node, py_nif, grace, [200]),
    {error, {timeout, abandoned}} = py:call(C, M, F, A, #{}, 100),
    ok = erpc:call(Node, py_nif, grace, [Grace]),
    {ok, 2} = py:eval(C, <<"1 + 1">>),
    Release().

%% A call that waits in C until it is released.
blocker(C) ->
    {ok, {Read, Write}} = py:call(C, os, pipe, []),
    {{os, read, [Read, 1]}, fun() -> {ok, 1} = py:call(C, os, write, [Write, {bytes, <<"x">>}]) end}.

interrupt(Config) ->
    C = context(Config),
    Refs = [py:spawn_call(C, '__main__', forever, []) || _ <- [1, 2]],
    py_test_lib:running({C, 2}),
    #{running := [#{caller := Self} | _]} = py_context:info(C),
    Self = self(),
    ok = py:interrupt(C),
    [{error, interrupted} = py:await(R) || R <- Refs].

await_over_its_time_leaves_no_message(Config) ->
    C = context(Config),
    Results = [py:await(py:spawn_call(C, time, sleep, [0.02]), 1) || _ <- lists:seq(1, 20)],
    ?assertEqual([], [R || R <- Results, R =/= {error, timeout}, R =/= {ok, none}]),
    {ok, 1} = py:eval(C, <<"1">>),
    {error, noproc} = py:await(make_ref(), 0).

caller_killed_stops_python(Config) ->
    C = context(Config),
    [
        begin
            {Pid, Monitor} = spawn_monitor(Do),
            py_test_lib:running({C, 1}),
            exit(Pid, kill),
            receive {'DOWN', Monitor, process, Pid, killed} -> ok end,
            py_test_lib:running({C, 0})
        end
     || Do <- [
            fun() -> py:exec(C, <<"while True: pass">>, infinity) end,
            fun() -> py:await(py:spawn_call(C, '__main__', forever, []), infinity) end
        ]
    ],
    %% also what waits on the loop
    ok = py:exec(C, <<"import asyncio\nended = []\n"
        "async def wait():\n    try: await asyncio.sleep(1000)\n    finally: ended.append(1)">>),
    {Pid, _} = spawn_monitor(fun() -> py:async_gather(C, [{'__main__', wait, []}], #{timeout => infinity}) end),
    py_test_lib:eventually(fun() -> #{loop_requests := 1} = py_context:info(C) end),
    exit(Pid, kill),
    receive {'DOWN', _, process, Pid, killed} -> ok end,
    py_test_lib:eventually(fun() -> {ok, [1]} = py:eval(C, <<"ended">>) end).

many_callers_at_once(Config) ->
    C = context(Config),
    py_test_lib:parallel(50, fun(P) ->
        [
            begin
                X = P * 1000 + I,
                {ok, X} = py:call(C, builtins, abs, [-X])
            end
         || I <- lists:seq(1, 100)
        ]
    end).

queue_is_bounded(Config) ->
    #{node := Node} = py_context:info(context(Config)),
    C = py_test_lib:context(#{isolation => {node, Node}, max_queue => 3}),
    {{M, F, A}, Release0} = blocker(context(Config)), %% the same OS process
    Running = py:spawn_call(C, M, F, A),
    py_test_lib:running({C, 1}),
    Waiting = [py:spawn_call(C, builtins, abs, [I]) || I <- [1, 2, 3]],
    {error, overloaded} = py:call(C, builtins, abs, [4]),
    {error, overloaded} = py:cast(C, builtins, abs, [4]),
    {error, overloaded} = py:await(py:spawn_call(C, builtins, abs, [4])),
    Release0(),
    {ok, <<"x">>} = py:await(Running),
    [{ok, I} = py:await(R) || {I, R} <- lists:zip([1, 2, 3], Waiting)],
    py_context:stop(C).

async_calls(Config) ->
    C = context(Config),
    Ref = py:async_call(C, asyncio, sleep, [1000]),
    ok = py:async_cancel(Ref),
    {error, cancelled} = py:async_await(Ref),
    {error, done} = py:async_cancel(Ref),
    {error, timeout} = py:async_await(py:async_call(C, asyncio, sleep, [1000]), 50),
    {ok, <<"x">>} = py:async_await(py:async_call(C, asyncio, sleep, [0.01, <<"x">>])).

gather_and_map(Config) ->
    C = context(Config),
    N = lists:seq(1, 200),
    {ok, N} = py:async_gather(C, [{asyncio, sleep, [0.01, I]} || I <- N], #{concurrency => 50}),
    {error, timeout} = py:async_gather(C, [{asyncio, sleep, [1000]}], #{timeout => 50}),
    {error, {gather_failed, [{2, {'ValueError', _}}]}} =
        py:async_gather(C, [{asyncio, sleep, [1000]}, {builtins, int, [<<"x">>]}], #{on_error => stop}),
    {ok, N} = py:map(C, builtins, abs, [[-I] || I <- N]),
    {error, {gather_failed, [{1, {'ValueError', _}}]}} =
        py:map(C, builtins, int, [[<<"x">>], [1]], #{on_error => stop}).

stream_with_credit(Config) ->
    C = context(Config),
    {ok, S} = py:stream_start(C, itertools, count, [], #{credit => 2}),
    [0, 1] = items(S, 2),
    ok = py:stream_ack(S, 3),
    [2, 3, 4] = items(S, 3),
    {ok, 1} = py:eval(C, <<"1">>),
    py_test_lib:no_messages(),
    ok = py:stream_cancel(S),
    {error, done} = py:stream_ack(S, 1),
    {ok, T} = py:stream_start(C, builtins, range, [3], #{credit => 1 bsl 80}),
    [0, 1, 2] = items(T, 3),
    receive {py_stream, T, done} -> ok end,
    {ok, U} = py:stream_start(C, builtins, int, [<<"x">>]),
    receive {py_stream, U, {error, {'ValueError', _}}} -> ok end,
    ok = py:stream_cancel(U).

items(Stream, N) ->
    [receive {py_stream, Stream, {data, Item}} -> Item end || _ <- lists:seq(1, N)].

stream_cancelled(Config) ->
    C = context(Config),
    ok = py:exec(C, <<"closed = []\n"
        "def items():\n    try:\n        while True: yield 1\n    finally: closed.append(1)">>),
    {ok, S} = py:stream_start(C, '__main__', items, [], #{credit => 1000}),
    [1] = items(S, 1),
    ok = py:stream_cancel(S),
    py_test_lib:no_messages(),
    {ok, [1]} = py:eval(C, <<"closed">>).

stream_of_a_dead_owner(Config) ->
    C = context(Config),
    ok = py:exec(C, <<"import asyncio\nclosed = []\n"
        "async def ticks():\n    try:\n        while True:\n            yield 1\n            await asyncio.sleep(0.001)\n"
        "    finally: closed.append(1)">>),
    Self = self(),
    Pid = spawn(fun() ->
        {ok, S} = py:stream_start(C, '__main__', ticks, []),
        items(S, 3),
        Self ! three,
        receive after infinity -> ok end
    end),
    receive three -> ok end,
    exit(Pid, kill),
    py_test_lib:eventually(fun() -> {ok, [1]} = py:eval(C, <<"closed">>) end).

stream_asks_for_whom_it_runs(Config) ->
    C = context(Config),
    ok = py:exec(C, <<"import erlang\ndef me():\n    yield erlang.self()">>),
    {ok, S} = py:stream_start(C, '__main__', me, []),
    Self = self(),
    [Self] = items(S, 1),
    receive {py_stream, S, done} -> ok end.

loop_is_started_and_stopped(Config) ->
    #{node := Node} = py_context:info(context(Config)),
    C = py_test_lib:context(#{isolation => {node, Node}}),
    {error, not_started} = py_context:stop_loop(C),
    ok = py_context:start_loop(C),
    Ref = py:async_call(C, asyncio, sleep, [1000]),
    ok = py_context:stop_loop(C, 10),
    {error, stopped} = py:async_await(Ref),
    py_context:stop(C).

refs_live_while_they_are_held(Config) ->
    C = context(Config),
    ok = py:exec(C, <<"class Box:\n    alive = 0\n    def __init__(self, v): self.v = v; Box.alive += 1\n"
        "    def add(self, n): self.v += n; return self\n    def __del__(self): Box.alive -= 1">>),
    {ok, {py_ref, <<"Box">>, _} = Box} = py:call(C, '__main__', 'Box', [1]),
    %% whatever is collected there meanwhile
    #{node := Node} = py_context:info(C),
    ok = erpc:call(Node, lists, foreach, [fun erlang:garbage_collect/1, erpc:call(Node, erlang, processes, [])]),
    {ok, _} = py:gc(C),
    {ok, 1} = py:getattr(C, Box, v),
    {ok, {py_ref, _, _}} = py:call_method(C, Box, add, [2]),
    %% and without a context: it is known where
    {ok, 3} = py:getattr(Box, v),
    {ok, {py_ref, _, _}} = py:call_method(Box, add, [3]),
    {ok, {py_ref, _, _}} = py:call(Box, add, [1]),
    {ok, #{v := 7}} = py:to_term(Box),
    {ok, true} = py:eval(C, <<"a is b[0]['x']">>, #{a => Box, b => [#{x => Box}]}),
    true = py:is_ref(Box),
    %% another process may have it
    [{ok, 7}] = py_test_lib:parallel(1, fun(_) -> py:getattr(Box, v) end),
    {ok, 1} = py:eval(C, <<"Box.alive">>),
    #{far_refs := Fars} = py:info(),
    true = Fars > 0,
    _ = {ok, many} = begin [{ok, _} = py:call(C, '__main__', 'Box', [N]) || N <- lists:seq(1, 50)], {ok, many} end,
    forgotten(C, 1, Box),
    forgotten(C, 0, none).

%% When the calling process has all but this.
forgotten(C, Count, Kept) ->
    py_test_lib:eventually(fun() ->
        _ = [erlang:garbage_collect(P) || P <- processes()],
        {ok, Count} = py:eval(C, <<"Box.alive">>),
        Kept
    end).

refs_are_of_their_node(Config) ->
    C = context(Config),
    {ok, There} = py:call(C, builtins, object, []),
    {ok, Here} = py:call(builtins, object, []),
    {error, {'ValueError', #{message := M1}}} = py:call(C, builtins, id, [Here]),
    {error, {'ValueError', #{message := M1}}} = py:await(py:spawn_call(C, builtins, id, [[Here]])),
    {error, {'ValueError', _}} = py:cast(C, builtins, id, [Here]),
    {error, {'ValueError', _}} = py:stream_start(C, builtins, iter, [Here]),
    {error, {'ValueError', #{message := <<"this reference belongs to a context on another node">>}}} =
        py:call(py:context(), builtins, id, [There]),
    #{node := Node} = py_context:info(C),
    D = py_test_lib:context(#{isolation => {node, Node}}),
    {error, {'ValueError', _}} = py:call(D, builtins, id, [There]),
    {ok, Gone} = py:call(D, builtins, object, []),
    py_context:stop(D),
    {error, noproc} = py:getattr(Gone, x),
    %% what only looks like one
    Odd = {py_ref, <<"x">>, make_ref()},
    {ok, Odd} = py:eval(C, <<"x">>, #{x => Odd}).

refs_in_callbacks_and_streams(Config) ->
    C = context(Config),
    ok = py:exec(C, <<"import erlang\nclass Thing:\n    def __init__(self, n): self.n = n">>),
    ok = py:register_function(look_at, fun(Thing) -> {ok, N} = py:getattr(Thing, n), {N, Thing} end),
    {ok, true} = py:eval(C, <<"(lambda t: erlang.look_at(t) == (5, t))(Thing(5))">>),
    ok = py:unregister_function(look_at),
    {ok, S} = py:stream_start(C, builtins, map, [element(2, py:eval(C, <<"Thing">>)), [1, 2, 3]]),
    Things = items(S, 3),
    receive {py_stream, S, done} -> ok end,
    [{ok, N} = py:getattr(T, n) || {N, T} <- lists:zip([1, 2, 3], Things)].

runtime_of_the_other_node(Config) ->
    C = context(Config),
    {ok, N} = py:gc(C),
    true = is_integer(N),
    {ok, #{<<"objects">> := _}} = py:memory_stats(C),
    ok = py:exec(C, <<"def find_me_here():\n    import time\n    while True: time.sleep(0.01)">>),
    Ref = py:spawn_call(C, '__main__', find_me_here, []),
    py_test_lib:running({C, 1}),
    py_test_lib:eventually(fun() ->
        {ok, Stacks} = py:stacks(C),
        {match, _} = re:run(io_lib:format("~p", [Stacks]), "find_me_here")
    end),
    ok = py:interrupt(C),
    {error, interrupted} = py:await(Ref).

%% ---- Erlang called from there ----

functions_of_this_node(Config) ->
    C = context(Config),
    Self = self(),
    ok = py:register_function(where_am_i, fun(X) -> {X, node(), hd(get('$callers'))} end),
    ok = py:register_function(plus, erlang, '+'),
    Expected = {ok, {1, node(), Self}},
    Expected = py:eval(C, <<"__import__('erlang').where_am_i(1)">>),
    Expected = py:eval(C, <<"__import__('erlang').call('where_am_i', 1)">>),
    ok = py:exec(C, <<"import erlang\nasync def ask(): return await erlang.async_call('where_am_i', 1)">>),
    Expected = py:async_await(py:async_call(C, '__main__', ask, [])),
    {ok, N} = py:eval(C, <<"sum(erlang.where_am_i(i)[0] for i in range(500))">>),
    N = lists:sum(lists:seq(0, 499)),
    %% a thread that nobody here asked for
    ok = py:exec(C, <<"import threading\ngot = []\n"
        "t = threading.Thread(target=lambda: got.append(erlang.call('plus', 1, 2)))\nt.start()\nt.join()">>),
    {ok, [3]} = py:eval(C, <<"got">>),
    ok = py:unregister_function(plus),
    ok = py:unregister_function(where_am_i),
    {ok, false} = py:eval(C, <<"hasattr(erlang, 'where_am_i')">>),
    {error, {'ErlangError', #{erlang := {error, {not_registered, <<"where_am_i">>}, _}}}} =
        py:eval(C, <<"erlang.call('where_am_i', 1)">>).

%% Erlang, Python there, Erlang here, Python there and so on, in a context of one thread.
functions_call_back(Config) ->
    #{node := Node} = py_context:info(context(Config)),
    C = py_test_lib:context(#{isolation => {node, Node}, threads => 1}),
    ok = py:exec(C, <<"import erlang\ndef depth(n): return 0 if n == 0 else 1 + erlang.deeper(n - 1)">>),
    ok = py:register_function(deeper, fun(N) -> {ok, D} = py:call(C, '__main__', depth, [N]), D end),
    {ok, 20} = py:call(C, '__main__', depth, [20]),
    %% by way of Python here
    ok = py:register_function(root, fun(X) -> {ok, R} = py:call(math, sqrt, [X]), R end),
    {ok, 3.0} = py:eval(C, <<"erlang.root(9)">>),
    ok = py:unregister_function(root),
    ok = py:unregister_function(deeper),
    py_context:stop(C).

funs_and_apply(Config) ->
    C = context(Config),
    Table = ets:new(a_table_of_this_node, [public]),
    {ok, true} = py:eval(C, <<"f(1)">>, #{f => fun(X) -> ets:insert(Table, {X}) end}),
    [{1}] = ets:lookup(Table, 1),
    ok = application:set_env(erlang_python, callback_apply, [{erlang, node, 0}]),
    Node = node(),
    {ok, Node} = py:eval(C, <<"__import__('erlang').apply('erlang', 'node', [])">>),
    ok = application:unset_env(erlang_python, callback_apply),
    {error, {'ErlangError', #{erlang := {error, {not_allowed, _}, _}}}} =
        py:eval(C, <<"__import__('erlang').apply('erlang', 'node', [])">>).

state_is_shared(Config) ->
    C = context(Config),
    ok = py:state_set(<<"of the suite">>, 1),
    {ok, 1} = py:eval(C, <<"__import__('erlang').state_get('of the suite')">>),
    {ok, 3} = py:eval(C, <<"__import__('erlang').state_incr('of the suite', 2)">>),
    3 = py:state_get(<<"of the suite">>),
    ok = py:state_delete(<<"of the suite">>).

killed_function_raises(Config) ->
    C = context(Config),
    Self = self(),
    ok = py:register_function(hang, fun() -> Self ! {hangs, self()}, receive after infinity -> ok end end),
    ok = py:exec(C, <<"import erlang\ndef hang(): erlang.hang()">>),
    Ref = py:spawn_call(C, '__main__', hang, []),
    Hangs = receive {hangs, P} -> P end,
    exit(Hangs, a_reason),
    {error, {'ErlangError', #{erlang := {exit, a_reason, _}}}} = py:await(Ref),
    %% and the function dies with the request
    Late = py:spawn_call(C, '__main__', hang, []),
    Dies = receive {hangs, Q} -> Q end,
    Monitor = monitor(process, Dies),
    ok = py:interrupt(C),
    {error, interrupted} = py:await(Late),
    receive {'DOWN', Monitor, process, Dies, _} -> ok end,
    ok = py:unregister_function(hang).

messages_and_self(Config) ->
    C = context(Config),
    Self = self(),
    {ok, Self} = py:call(C, erlang, self, []),
    {ok, Self} = py:async_await(py:async_call(C, erlang, self, [])),
    {ok, none} = py:call(C, erlang, send, [Self, {hello, 1}]),
    receive {hello, 1} -> ok end,
    ok = py:exec(C, <<"import erlang\ndef many(n):\n    for i in range(n): erlang.send(erlang.self(), i)">>),
    {ok, none} = py:call(C, '__main__', many, [100]),
    [receive I -> ok end || I <- lists:seq(0, 99)],
    ok = py:exec(C, <<"def last_words(pid):\n    m = erlang.monitor(pid)\n"
        "    erlang.send(pid, erlang.Atom('stop'))\n    return m.wait(10)">>),
    {ok, tired} = py:call(C, '__main__', last_words, [spawn(fun() -> receive stop -> exit(tired) end end)]).

output_goes_to_the_caller(Config) ->
    C = context(Config),
    Self = self(),
    Leader = spawn_link(fun() -> leader(Self) end),
    Before = group_leader(),
    true = group_leader(Leader, self()),
    ok = py:exec(C, <<"print('grüße', 1)"/utf8>>),
    true = group_leader(Before, self()),
    receive {printed, Text} -> ?assertEqual(<<"grüße 1\n"/utf8>>, unicode:characters_to_binary(Text)) end.

leader(To) ->
    receive
        {io_request, From, Ref, Request} ->
            case Request of
                {put_chars, _, Text} -> To ! {printed, Text};
                _ -> ok
            end,
            From ! {io_reply, Ref, ok},
            leader(To)
    end.

logs_come_here(Config) ->
    C = context(Config),
    ok = logger:set_primary_config(level, warning),
    ok = logger:add_handler(?MODULE, ?MODULE, #{to => self()}),
    ok = py:exec(C, <<"import logging\nlogging.getLogger('shop').error('%d left', 3)">>),
    receive
        {logged, #{level := error, msg := {"~ts", [<<"3 left">>]}, meta := #{python_logger := <<"shop">>, pid := P}}} ->
            ?assertEqual(self(), P)
    end,
    ok = logger:remove_handler(?MODULE),
    ok = logger:set_primary_config(level, emergency).

log(#{msg := {"~ts", _}} = Event, #{to := To}) -> To ! {logged, Event};
log(_, _) -> ok.

telemetry(Config) ->
    C = context(Config),
    Self = self(),
    ok = py_telemetry:attach(fun(Event, _, Meta) -> Self ! {Event, Meta} end),
    {ok, 2.0} = py:call(C, math, sqrt, [4]),
    ok = py_telemetry:detach(),
    receive {[erlang_python, call, start], #{function := sqrt}} -> ok end,
    receive {[erlang_python, call, stop], #{function := sqrt}} -> ok end.

%% ---- nodes that are there already ----

context_on_a_running_node(_) ->
    {ok, Peer, Node, OsPid} = py_peer:start_link(#{}),
    Cs = [py_test_lib:context(#{isolation => {node, Node}}) || _ <- [1, 2]],
    [OsPid, OsPid] = [os_pid(C) || C <- Cs],
    [ok = py:exec(C, <<"x = 1">>) || C <- [hd(Cs)]],
    {error, {'NameError', _}} = py:eval(lists:last(Cs), <<"x">>),
    %% its own functions come first, then ours
    ok = erpc:call(Node, py, register_function, [base, erlang, node]),
    ok = py:register_function(base, erlang, node),
    ok = py:register_function(ours, erlang, node),
    ?assertEqual({ok, [Node, node()]}, py:eval(hd(Cs), <<"[__import__('erlang').call(f) for f in ('base', 'ours')]">>)),
    [ok = py:unregister_function(F) || F <- [base, ours]],
    [py_context:stop(C) || C <- Cs],
    %% the node stays, and has nothing of ours
    py_test_lib:eventually(fun() ->
        ok = erpc:call(Node, lists, foreach, [fun erlang:garbage_collect/1, erpc:call(Node, erlang, processes, [])]),
        #{contexts := 1} = erpc:call(Node, py_nif, counters, [])
    end),
    true = alive(OsPid),
    true = unlink(Peer),
    ok = py_peer:stop(Peer),
    gone(OsPid).

node_goes_down(_) ->
    {ok, Peer, Node, OsPid} = py_peer:start_link(#{}),
    true = unlink(Peer),
    C = py_test_lib:context(#{isolation => {node, Node}}),
    Ref = py:spawn_call(C, time, sleep, [1000]),
    py_test_lib:running({C, 1}),
    {node_down, noconnection} = ended(C, fun() -> kill(OsPid) end),
    {error, stopped} = py:await(Ref),
    {error, {Node, noconnection}} = py_context:start(#{isolation => {node, Node}}),
    gone(OsPid).

nodes_that_will_not_do(_) ->
    {error, {'nobody@127.0.0.1', noconnection}} = py_context:start(#{isolation => {node, 'nobody@127.0.0.1'}}),
    {ok, Peer, Node, _} = py_peer:start_link(#{}),
    true = unlink(Peer),
    ok = erpc:call(Node, application, stop, [erlang_python]),
    {error, {not_started, erlang_python, Node}} = py_context:start(#{isolation => {node, Node}}),
    ok = py_peer:stop(Peer).
