%% Contexts with a Python interpreter of their own: what is theirs, running in parallel, refs across, and their end.
-module(py_isolation_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(ERROR(Class), {error, {Class, #{message := _, traceback := _}}}).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [
        option_is_checked,
        modules_and_main_are_its_own,
        options_go_together,
        start_without_preload,
        failing_preload_refuses_the_start,
        refusing_extension_is_named,
        modules_of_the_library,
        one_computes_in_c_while_another_answers,
        requests_of_all_kinds,
        deadlines_and_interrupts,
        stacks_while_it_computes,
        output_and_logs,
        callbacks_across_interpreters,
        channels_of_interpreters,
        sqlite_calls_back,
        subprocess_but_no_fork,
        fork_in_the_main_interpreter,
        refs_find_their_interpreter,
        refs_of_another_interpreter_are_refused,
        ref_outlives_its_context,
        binary_outlives_its_context,
        stream_outlives_its_context,
        stop_ends_the_interpreter,
        stop_runs_atexit,
        stop_with_an_executor_and_a_loop,
        stop_leaves_one_with_a_thread,
        stop_leaves_one_with_a_stuck_worker,
        stop_while_it_computes,
        owner_killed,
        the_last_with_datetime_ends,
        many_at_once,
        hundred_started_and_stopped,
        application_stops_with_contexts,
        vm_ends_with_contexts
    ].

init_per_suite(Config) ->
    case supported() of
        true -> py_test_lib:start(Config);
        false ->
            {ok, _} = application:ensure_all_started(erlang_python),
            {error, {isolation, interpreter, <<"needs Python 3.13">>}} = py_context:start(#{isolation => interpreter}),
            {skip, "interpreters with their own GIL need Python 3.13"}
    end.

end_per_suite(Config) -> py_test_lib:stop(Config).

end_per_testcase(_Case, _Config) ->
    #{running_contexts := Contexts} = py:info(),
    [ok = py_context:stop(Pid) || #{isolation := interpreter, name := Name, pid := Pid} <- Contexts, Name =/= default],
    py_test_lib:no_messages().

supported() ->
    [Major, Minor | _] = binary:split(py_nif:python_version(), <<".">>, [global]),
    {binary_to_integer(Major), binary_to_integer(Minor)} >= {3, 13}.

isolated() ->
    isolated(#{}).

isolated(Options) ->
    py_test_lib:context(Options#{isolation => interpreter}).

%% A call that never ends.
spin(Context) ->
    ok = py:exec(Context, "def spin():\n    while True: pass\n"),
    py:spawn_call(Context, '__main__', spin, []).

%% Stops a context and waits for the end of its interpreter.
drop(Context) ->
    ok = py_context:stop(Context),
    all_ended().

all_ended() ->
    py_test_lib:eventually(fun() ->
        _ = [erlang:garbage_collect(P) || P <- processes()],
        #{interpreters := 0, interpreters_left := 0, interpreters_ending := 0} = py_nif:counters(),
        ok
    end).

%% ---- what is its own ----

option_is_checked(_) ->
    ?assertEqual({error, {bad_option, {isolation, forked}}}, py_context:start(#{isolation => forked})).

modules_and_main_are_its_own(_) ->
    A = isolated(),
    B = isolated(),
    ok = py:exec(A, "import sys, json\nsys.path.append('/nowhere')\njson.mark = x = 1"),
    ?assertEqual({ok, true}, py:eval(A, "sys.modules['__main__'].x == 1 and json.mark == 1")),
    [
        begin
            ?assertMatch(?ERROR('NameError'), py:eval(Other, "x")),
            ?assertEqual({ok, false}, py:eval(Other, "hasattr(__import__('json'), 'mark')")),
            ?assertEqual({ok, false}, py:eval(Other, "'/nowhere' in __import__('sys').path"))
        end
     || Other <- [B, py:context()]
    ],
    ?assertEqual({ok, true}, py:eval(A, "__import__('erlang')._calls.__name__ == 'erlang._calls'")),
    Infos = [py_context:info(C) || C <- [A, B, py:context()]],
    ?assertEqual(3, length(lists:usort([Id || #{interpreter := Id} <- Infos]))),
    ?assertEqual([interpreter, interpreter, thread], [I || #{isolation := I} <- Infos]),
    ok = py_context:stop(A),
    drop(B).

options_go_together(Config) ->
    Dir = proplists:get_value(priv_dir, Config),
    ok = file:write_file(filename:join(Dir, "isolated_mod.py"), "import threading\nbarrier = threading.Barrier(3)\n"),
    {ok, C} = py:context(#{
        isolation => interpreter, name => own, threads => 3, spin_us => 0, max_queue => 10, binaries => bytes,
        sys_path => [Dir], preload => [isolated_mod]
    }),
    ?assertEqual(C, py:context(own)),
    ?assertEqual({ok, true}, py:eval(C, "'isolated_mod' in __import__('sys').modules")),
    ?assertEqual({ok, <<"bytes">>}, py:eval(C, "type(x).__name__", #{x => <<"text">>})),
    Waiting = [py:spawn_call(C, isolated_mod, 'barrier.wait', []) || _ <- lists:seq(1, 3)],
    ?assertEqual([0, 1, 2], lists:sort([begin {ok, I} = py:await(W), I end || W <- Waiting])),
    ?assertMatch(#{max_threads := 3, workers := 3, name := own}, py_context:info(C)),
    drop(C).

start_without_preload(_) ->
    {ok, C} = py_context:start_link(#{isolation => interpreter}),
    {ok, 3} = py:eval(C, "1 + 2"),
    drop(C).

failing_preload_refuses_the_start(_) ->
    Refused = py_context:start(#{isolation => interpreter, preload => [there_is_no_such_module]}),
    ?assertMatch({error, {preload, {'ModuleNotFoundError', _}}}, Refused),
    all_ended().

refusing_extension_is_named(_) ->
    C = isolated(),
    case py:eval("__import__('importlib.util').util.find_spec('_testsinglephase') is not None") of
        {ok, true} ->
            {error, {'ImportError', #{message := Message}}} = py:exec(C, "import _testsinglephase"),
            {_, _} = binary:match(Message, <<"_testsinglephase">>);
        {ok, false} ->
            ct:comment("no extension at hand that refuses")
    end,
    {ok, 1} = py:eval(C, "1"),
    drop(C).

modules_of_the_library(_) ->
    C = isolated(),
    [
        ?assertEqual({M, ok}, {M, py:exec(C, ["import ", M])})
     || M <- [
            "asyncio", "concurrent.futures", "csv", "ctypes", "datetime", "decimal", "hashlib", "json", "logging",
            "multiprocessing", "random", "re", "resource", "sqlite3", "ssl", "threading", "unicodedata", "uuid",
            "xml.etree.ElementTree", "zlib", "zoneinfo"
        ]
    ],
    drop(C).

%% ---- work ----

%% sum() keeps the GIL to its end. When it ends before the other context has answered, the sum was too short to tell.
one_computes_in_c_while_another_answers(_) ->
    Computing = isolated(),
    Answering = isolated(),
    ok = py:exec(Computing, "def total(n): return sum(range(n))"),
    overlap(Computing, Answering, 50000000),
    overlap(Computing, py:context(), 50000000),
    ok = py_context:stop(Computing),
    drop(Answering).

overlap(Computing, Answering, N) when N < 100000000000 ->
    {ok, _} = py:eval(Answering, "1"),
    #{calls := Before} = py_context:info(Computing),
    Sum = py:spawn_call(Computing, '__main__', total, [N]),
    py_test_lib:eventually(fun() -> #{calls := Calls} = py_context:info(Computing), true = Calls > Before end),
    [{ok, I} = py:eval(Answering, "x", #{x => I}) || I <- lists:seq(1, 50)],
    #{running := Running} = py_context:info(Computing),
    ?assertEqual({ok, N * (N - 1) div 2}, py:await(Sum, infinity)),
    case Running of
        [_] -> ok;
        [] -> overlap(Computing, Answering, N * 4)
    end.

requests_of_all_kinds(_) ->
    C = isolated(#{threads => 2}),
    ok = py:exec(C,
        "import asyncio, threading\n"
        "done = threading.Event()\n"
        "def double(x, *, times=2): return x * times\n"
        "async def later(x):\n    await asyncio.sleep(0)\n    return x\n"
        "async def letters():\n    for x in 'abc':\n        await asyncio.sleep(0)\n        yield x\n"),
    {ok, 8} = py:call(C, '__main__', double, [4]),
    {ok, 12} = py:call(C, '__main__', double, [4], #{times => 3}),
    ok = py:cast(C, '__main__', 'done.set', []),
    {ok, true} = py:call(C, '__main__', 'done.wait', [20]),
    {ok, 7.0} = py:await(py:spawn_call(C, '__main__', double, [3.5])),
    {ok, 5} = py:async_await(py:async_call(C, '__main__', later, [5])),
    {ok, [1, 2, 3]} = py:async_gather(C, [{'__main__', later, [I]} || I <- [1, 2, 3]]),
    {ok, [1.0, 2.0]} = py:map(C, math, sqrt, [[1], [4]]),
    {ok, [1, 2]} = py:map(C, '__main__', later, [[1], [2]]),
    {ok, [0, 1, 2]} = py:stream(C, builtins, range, [3]),
    {ok, [<<"a">>, <<"b">>, <<"c">>]} = py:stream(C, '__main__', letters, []),
    {ok, S} = py:stream_start(C, '__main__', letters, [], #{credit => 1}),
    receive {py_stream, S, {data, <<"a">>}} -> ok end,
    ok = py:stream_ack(S, infinity),
    [receive {py_stream, S, X} -> ok end || X <- [{data, <<"b">>}, {data, <<"c">>}, done]],
    {ok, false} = py:reload(C, <<"colorsys">>),
    {ok, true} = py:reload(C, <<"colorsys">>),
    drop(C).

deadlines_and_interrupts(_) ->
    C = isolated(),
    ?assertEqual({error, timeout}, py:exec(C, "while True: pass", 50)),
    Self = self(),
    Spinning = spawn_link(fun() -> Self ! {self(), py:exec(C, "while True: pass")} end),
    py_test_lib:running({C, 1}),
    ok = py:interrupt(C),
    receive {Spinning, Result} -> ?assertEqual({error, interrupted}, Result) end,
    Doomed = spawn(fun() -> py:exec(C, "while True: pass") end),
    py_test_lib:running({C, 1}),
    exit(Doomed, kill),
    ?assertEqual({ok, 2}, py:eval(C, "1 + 1")),
    ?assertEqual({error, timeout}, py:async_await(py:async_call(C, asyncio, sleep, [600]), 50)),
    drop(C).

stacks_while_it_computes(_) ->
    C = isolated(#{name => computing}),
    Self = self(),
    ok = py:exec(C, "go_on = True\ndef spins_here():\n    while go_on: pass\n"),
    Spinning = py:spawn_call(C, '__main__', spins_here, []),
    py_test_lib:eventually(fun() ->
        {ok, Stacks} = py:stacks(),
        Lines = [L || {<<"computing: ", _/binary>>, Ls} <- Stacks, L <- Ls],
        true = lists:any(fun(L) -> binary:match(L, <<"spins_here">>) =/= nomatch end, Lines)
    end),
    ?assertMatch(#{running := [#{function := spins_here, caller := Self}]}, py_context:info(C)),
    ok = py:interrupt(C),
    ?assertEqual({error, interrupted}, py:await(Spinning)),
    drop(C).

output_and_logs(_) ->
    C = isolated(),
    {Text, ok} = captured(fun() -> py:exec(C, "print('from an interpreter', end='')") end),
    ?assertEqual(<<"from an interpreter">>, Text),
    ok = py:configure_logging(#{level => error}),
    D = isolated(),
    ?assertEqual([{ok, 40}, {ok, 40}], [py:eval(X, "__import__('logging').getLogger().level") || X <- [C, D]]),
    ok = py:configure_logging(#{level => warning}),
    ?assertEqual({ok, 30}, py:eval(C, "__import__('logging').getLogger().level")),
    ok = application:unset_env(erlang_python, log_level),
    ok = py_context:stop(C),
    drop(D).

%% What Fun prints to its group leader, which is this process, and what it returns.
captured(Fun) ->
    Self = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        group_leader(Self, self()),
        exit({result, Fun()})
    end),
    captured(Pid, Monitor, []).

captured(Pid, Monitor, Text) ->
    receive
        {io_request, From, As, {put_chars, unicode, Chars}} ->
            From ! {io_reply, As, ok},
            captured(Pid, Monitor, [Text, Chars]);
        {'DOWN', Monitor, process, Pid, {result, Result}} ->
            {unicode:characters_to_binary(Text), Result}
    end.

%% Erlang -> A -> Erlang -> B -> Erlang -> A, on one thread each.
callbacks_across_interpreters(_) ->
    A = isolated(),
    B = isolated(),
    ok = py:register_function(isolated_down, fun
        (0) -> [];
        (N) ->
            Next = case N rem 2 of 0 -> A; 1 -> B end,
            {ok, Below} = py:eval(Next, "[n] + __import__('erlang').call('isolated_down', n - 1)", #{n => N}),
            Below
    end),
    ?assertEqual({ok, lists:seq(20, 1, -1)}, py:eval(A, "__import__('erlang').call('isolated_down', 20)")),
    ok = py:register_function(isolated_fails, fun() -> error(on_purpose) end),
    {error, {'ErlangError', #{message := Message}}} = py:eval(B, "__import__('erlang').isolated_fails()"),
    {_, _} = binary:match(Message, <<"on_purpose">>),
    ok = py:exec(B, "import erlang\nasync def ask(x): return await erlang.async_call('isolated_down', x)"),
    ?assertEqual({ok, [2, 1]}, py:async_await(py:async_call(B, '__main__', ask, [2]))),
    ok = py:unregister_function(isolated_down),
    ok = py:unregister_function(isolated_fails),
    {ok, _} = py:eval(A, "__import__('erlang').send(p, ('hello', 1))", #{p => self()}),
    receive {<<"hello">>, 1} -> ok end,
    ok = py_context:stop(A),
    drop(B).

channels_of_interpreters(_) ->
    A = isolated(),
    B = isolated(),
    [FromA, ToB] = [py_channel:new(#{capacity => 4}) || _ <- [1, 2]],
    ok = py:exec(A, "async def feed(c):\n    for i in range(100): await c.async_send(i)\n    c.close()\n"),
    ok = py:exec(B, "def total(c): return sum(c)\n"),
    Fed = py:async_call(A, '__main__', feed, [FromA]),
    Total = py:spawn_call(B, '__main__', total, [ToB]),
    [begin {ok, X} = py_channel:recv(FromA, 20000), ok = py_channel:send(ToB, X, 20000) end || _ <- lists:seq(1, 100)],
    ?assertEqual(closed, py_channel:recv(FromA, 20000)),
    ok = py_channel:close(ToB),
    ?assertEqual({ok, 4950}, py:await(Total)),
    {ok, none} = py:async_await(Fed),
    ok = py_context:stop(A),
    drop(B).

%% The callbacks of sqlite find the interpreter by PyGILState.
sqlite_calls_back(_) ->
    C = isolated(#{threads => 2}),
    ok = py:exec(C,
        "import sqlite3\n"
        "def run():\n"
        "    db = sqlite3.connect(':memory:')\n"
        "    db.create_function('twice', 1, lambda x: 2 * x)\n"
        "    return db.execute('select twice(21)').fetchone()[0]\n"),
    ?assertEqual({ok, 42}, py:call(C, '__main__', run, [])),
    ok = py:exec(C, "async def on_the_loop(): return run()"),
    ?assertEqual({ok, 42}, py:async_await(py:async_call(C, '__main__', on_the_loop, []))),
    drop(C).

subprocess_but_no_fork(_) ->
    C = isolated(),
    ok = py:exec(C, "import subprocess\nran = subprocess.run(['sh', '-c', 'printf out; exit 3'], capture_output=True)"),
    ?assertEqual({ok, {3, <<"out">>}}, py:eval(C, "(ran.returncode, ran.stdout)")),
    {error, {'RuntimeError', #{message := Message}}} = py:eval(C, "__import__('os').fork()"),
    {_, _} = binary:match(Message, <<"fork">>),
    drop(C).

%% CPython cannot: the child would end with a fatal error.
fork_in_the_main_interpreter(_) ->
    ok = py:exec(
        "import os\n"
        "def forked():\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os._exit(7)\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"),
    C = isolated(),
    {error, {'RuntimeError', #{message := Message}}} = py:call('__main__', forked, []),
    {_, _} = binary:match(Message, <<"interpreter">>),
    {ok, 0} = py:eval("__import__('subprocess').run(['true']).returncode"),
    drop(C),
    ?assertEqual({ok, 7}, py:call('__main__', forked, [])).

%% ---- refs ----

refs_find_their_interpreter(_) ->
    C = isolated(),
    ok = py:exec(C,
        "class Counter:\n"
        "    def __init__(self): self.n = 0\n"
        "    def add(self, k=1):\n        self.n += k\n        return self.n\n"
        "    async def later(self): return self.n\n"
        "    def items(self): yield from range(self.n)\n"),
    {ok, Ref} = py:call(C, '__main__', 'Counter', []),
    {ok, 1} = py:call_method(Ref, add, []),
    {ok, 4} = py:call_method(Ref, add, [], #{k => 3}),
    {ok, 4} = py:getattr(Ref, n),
    {ok, 5} = py:call(Ref, add, []),
    ok = py:cast(Ref, add, []),
    {ok, 7} = py:await(py:spawn_call(Ref, add, [])),
    {ok, 7} = py:async_await(py:async_call(Ref, later, [])),
    {ok, [0, 1, 2, 3, 4, 5, 6]} = py:stream(Ref, items, []),
    {ok, #{n := 7}} = py:to_term(Ref),
    {ok, 7} = py:eval(C, "ref.n", #{ref => Ref}),
    {ok, 7} = py:call_method(C, Ref, add, [0]),
    {ok, List} = py:eval("iter([1])"),
    ?assertEqual({ok, 1}, py:call_method(List, '__next__', [])),
    drop(C).

refs_of_another_interpreter_are_refused(_) ->
    C = isolated(#{name => theirs}),
    D = isolated(),
    {ok, Theirs} = py:eval(C, "object()"),
    {ok, Mains} = py:eval("object()"),
    [
        begin
            ?assertMatch(?ERROR('ValueError'), Result),
            {error, {_, #{message := Message}}} = Result,
            ?assertMatch({_, _}, binary:match(Message, Named), Message)
        end
     || {Named, Result} <- [
            {<<"context theirs">>, py:call(builtins, id, [Theirs])},
            {<<"context theirs">>, py:call(D, builtins, id, [[#{deep => Theirs}]])},
            {<<"context theirs">>, py:getattr(D, Theirs, '__class__')},
            {<<"context theirs">>, py:call_method(D, Theirs, '__hash__', [])},
            {<<"context theirs">>, py:to_term(D, Theirs)},
            {<<"context theirs">>, py:eval("x", #{x => Theirs})},
            {<<"context theirs">>, py:async_await(py:async_call(D, builtins, id, [Theirs]))},
            {<<"(main)">>, py:call(C, builtins, id, [Mains])}
        ]
    ],
    ?assertMatch({ok, _}, py:call(C, builtins, id, [Theirs])),
    ok = py_context:stop(C),
    drop(D).

ref_outlives_its_context(_) ->
    Self = self(),
    Holder = spawn_link(fun() ->
        C = isolated(),
        {ok, Ref} = py:eval(C, "object()"),
        ok = py_context:stop(C),
        Self ! {held, [
            py:getattr(Ref, '__class__'),
            py:call_method(Ref, '__hash__', []),
            py:to_term(Ref),
            py:getattr(C, Ref, '__class__')
        ]},
        ?assertMatch(?ERROR('ValueError'), py:call(builtins, id, [Ref])),
        receive {drop, Self} -> Ref end
    end),
    receive {held, Results} -> ?assertEqual(lists:duplicate(4, {error, noproc}), Results) end,
    py_test_lib:eventually(fun() -> #{interpreters_ending := 0} = py_nif:counters() end),
    ?assertMatch(#{interpreters := 1, interpreters_left := 1}, py:info()),
    ?assertMatch({ok, #{<<"interpreters_left">> := 1}}, py:memory_stats()),
    Holder ! {drop, Self},
    all_ended().

%% Large bytes cross without a copy.
binary_outlives_its_context(_) ->
    C = isolated(),
    {ok, Binary} = py:eval(C, "b'0123456789' * 100000"),
    ok = py_context:stop(C),
    py_test_lib:eventually(fun() -> #{interpreters_ending := 0} = py_nif:counters() end),
    ?assertMatch(#{pins := 1, interpreters_left := 1}, py_nif:counters()),
    ?assertEqual(binary:copy(<<"0123456789">>, 100000), Binary),
    ?assertEqual(1000000, byte_size(Binary)).

stream_outlives_its_context(_) ->
    Self = self(),
    {Owner, Monitor} = spawn_monitor(fun() ->
        C = isolated(),
        {ok, S} = py:stream_start(C, itertools, count, [], #{credit => 1}),
        receive {py_stream, S, {data, 0}} -> ok end,
        ok = py_context:stop(C),
        Self ! stopped,
        receive {finish, Self} -> ok end,
        _ = py:stream_ack(S, 1),
        receive {py_stream, S, {error, stopped}} -> ok end
    end),
    receive stopped -> ok end,
    Owner ! {finish, Self},
    receive {'DOWN', Monitor, process, Owner, Reason} -> ?assertEqual(normal, Reason) end,
    all_ended().

%% ---- the end ----

stop_ends_the_interpreter(_) ->
    all_ended(),
    Threads = length(py_test_lib:threads()),
    C = isolated(#{threads => 4}),
    {ok, none} = py:async_await(py:async_call(C, asyncio, sleep, [0])),
    ?assertMatch(#{interpreters := 1, interpreters_left := 0}, py:info()),
    drop(C),
    ?assertEqual({error, noproc}, py:eval(C, "1")),
    py_test_lib:eventually(fun() -> Threads = length(py_test_lib:threads()) end).

stop_runs_atexit(_) ->
    C = isolated(),
    ok = py:exec(C, "import atexit, erlang\n"),
    {ok, _} = py:eval(C, "atexit.register(erlang.send, p, 'atexit')", #{p => self()}),
    ok = py_context:stop(C),
    receive <<"atexit">> -> ok end,
    all_ended().

stop_with_an_executor_and_a_loop(_) ->
    C = isolated(),
    ok = py:exec(C,
        "import asyncio, concurrent.futures\n"
        "pool = concurrent.futures.ThreadPoolExecutor(4)\n"
        "list(pool.map(str, range(100)))\n"
        "async def work():\n"
        "    await asyncio.get_running_loop().run_in_executor(None, str, 1)\n"
        "    await asyncio.sleep(600)\n"),
    Work = py:async_call(C, '__main__', work, []),
    py_test_lib:eventually(fun() -> #{loop_requests := 1} = py_context:info(C) end),
    ok = py_context:stop(C),
    ?assertMatch({error, S} when S =:= stopped; element(1, S) =:= stopped, py:async_await(Work)),
    all_ended().

stop_leaves_one_with_a_thread(_) ->
    {ok, {Read, Write}} = py:call(os, pipe, []),
    C = isolated(),
    ok = py:exec(C,
        "import os, threading\n"
        "def reads(fd): threading.Thread(target=os.read, args=(fd, 1), daemon=True).start()\n"),
    {ok, none} = py:call(C, '__main__', reads, [Read]),
    ok = py_context:stop(C),
    py_test_lib:eventually(fun() -> #{interpreters_ending := 0} = py_nif:counters() end),
    ?assertMatch(#{interpreters := 1, interpreters_left := 1}, py:info()),
    {ok, 1} = py:call(os, write, [Write, {bytes, <<"x">>}]),
    all_ended(),
    [{ok, none} = py:call(os, close, [Fd]) || Fd <- [Read, Write]],
    ok.

stop_leaves_one_with_a_stuck_worker(_) ->
    C = isolated(),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    ?assertEqual({error, {timeout, abandoned}}, py:call(C, M, F, A, #{}, 50)),
    ?assertEqual({ok, 2}, py:eval(C, "1 + 1")),
    ?assertMatch(#{lost_workers := 1}, py_context:info(C)),
    ok = py_context:stop(C),
    ?assertMatch(#{interpreters := 1, interpreters_left := 1}, py:info()),
    Release(),
    all_ended().

stop_while_it_computes(_) ->
    C = isolated(),
    Spinning = spin(C),
    Next = py:spawn_call(C, builtins, int, [1]),
    py_test_lib:running({C, 1}),
    ok = py_context:stop(C),
    ?assertEqual([{error, stopped}, {error, stopped}], [py:await(R) || R <- [Spinning, Next]]),
    all_ended().

owner_killed(_) ->
    C = isolated(#{threads => 2}),
    Calls = [spin(C) || _ <- [1, 2]],
    py_test_lib:running({C, 2}),
    exit(C, kill),
    ?assertEqual(lists:duplicate(2, {error, stopped}), [py:await(R) || R <- Calls]),
    all_ended().

%% Static types of CPython's datetime once belonged to the first interpreter that imported it.
the_last_with_datetime_ends(Config) ->
    ?assertMatch({7, _}, py_test_lib:run_node(Config,
        "{ok, _} = application:ensure_all_started(erlang_python),"
        "Cs = [element(2, {ok, _} = py_context:start(#{isolation => interpreter, preload => [datetime]})) || _ <- [1, 2]],"
        "[begin"
        "    ok = py_context:stop(C),"
        "    py_test_lib:eventually(fun() -> #{interpreters_left := 0} = py_nif:counters() end)"
        " end || C <- Cs],"
        "#{interpreters := 0} = py_nif:counters(),"
        "halt(7).")).

many_at_once(_) ->
    Results = py_test_lib:parallel(8, fun(N) ->
        {ok, C} = py_context:start(#{isolation => interpreter}),
        ok = py:exec(C, "import json, threading"),
        {ok, N} = py:eval(C, "n", #{n => N}),
        {ok, N} = py:async_await(py:async_call(C, builtins, int, [N])),
        ok = py_context:stop(C),
        N
    end),
    ?assertEqual(lists:seq(1, 8), Results),
    all_ended().

hundred_started_and_stopped(_) ->
    all_ended(),
    Threads = length(py_test_lib:threads()),
    [
        begin
            {ok, C} = py_context:start(#{isolation => interpreter}),
            {ok, N} = py:eval(C, "n", #{n => N}),
            ok = py_context:stop(C)
        end
     || N <- lists:seq(1, 100)
    ],
    all_ended(),
    py_test_lib:eventually(fun() -> Threads = length(py_test_lib:threads()) end).

application_stops_with_contexts(_) ->
    Idle = isolated(),
    Spins = isolated(),
    {ok, _} = py:eval(Idle, "__import__('atexit').register(__import__('erlang').send, p, 'atexit')", #{p => self()}),
    Spinning = spin(Spins),
    py_test_lib:running({Spins, 1}),
    ok = application:stop(erlang_python),
    ?assertEqual({error, stopped}, py:await(Spinning)),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, 1} = py:eval("1"),
    all_ended(),
    %% the servers of callbacks may be gone by then
    receive <<"atexit">> -> ok after 0 -> ok end.

vm_ends_with_contexts(Config) ->
    Start = fun(End) ->
        ["{ok, _} = application:ensure_all_started(erlang_python),"
         "{ok, A} = py_context:start(#{isolation => interpreter}),"
         "{ok, B} = py_context:start(#{isolation => interpreter}),"
         "ok = py:exec(A, \"import threading, time\\nthreading.Thread(target=time.sleep, args=(600,)).start()\"),"
         "ok = py:exec(B, \"def spin():\n    while True: pass\"),"
         "_ = py:spawn_call(B, '__main__', spin, []),"
         "_ = py:async_call(B, asyncio, sleep, [600]),", End]
    end,
    ?assertMatch({7, _}, py_test_lib:run_node(Config, Start("halt(7)."))),
    ?assertMatch({0, _}, py_test_lib:run_node(Config, Start("init:stop()."))).
