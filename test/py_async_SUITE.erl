%% Async calls and gathers: coroutines on a context's loop, and that each has exactly one reply.
-module(py_async_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [{group, native}, {group, beam}].

groups() ->
    Cases = [
        runs_on_the_backend,
        coroutine_and_plain_function,
        awaitables_that_are_no_coroutines,
        exceptions_are_errors,
        not_a_call_at_all,
        task_semantics_inside,
        a_fresh_contextvars_context_each,
        cancel_runs_finally,
        cancel_of_what_is_done,
        await_timeout_cancels,
        await_timeout_leaves_no_message,
        deadline_stops_a_coroutine,
        deadline_stops_a_spinning_coroutine,
        deadline_stops_a_spinning_plain_function,
        deadline_stops_a_spinning_task_of_the_request,
        deadline_answers_when_the_loop_is_stuck,
        swallowed_cancel_is_abandoned,
        callers_death_cancels,
        callers_death_before_it_runs,
        interrupt_reaches_the_loop,
        sys_exit_and_interrupt_stay_inside,
        stop_called_by_user_code,
        gather_in_order,
        gather_reports_every_failure,
        gather_stops_at_the_first,
        gather_of_nothing,
        gather_of_nonsense,
        gather_with_concurrency,
        gather_deadline,
        gather_of_many,
        gather_with_keywords_and_methods,
        map_of_coroutines_and_functions,
        map_failures,
        map_stops_at_deadline,
        many_callers,
        callers_killed_by_the_hundred,
        context_stop_answers_all,
        context_stop_while_the_loop_spins,
        context_kill_while_calls_run,
        context_stop_with_tens_of_thousands_waiting,
        loop_stop_drains_and_restarts,
        loop_stop_with_a_deadline_cancels,
        overloaded,
        no_context
    ],
    [{native, Cases}, {beam, Cases}].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    _ = py_test_lib:module(Started, "async_fixture", fixture()),
    Started.

end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_group(Backend, Config) -> py_test_lib:loop(Backend, Config).

end_per_group(_Group, Config) -> py_test_lib:loop(native, Config).

init_per_testcase(_Case, Config) ->
    {ok, _} = py:call(async_fixture, clear, []),
    Config.

end_per_testcase(_Case, _Config) ->
    let_go(),
    py_test_lib:no_messages().

fixture() ->
    "import asyncio, contextvars, sys, threading, time\n"
    "def on_beam(): return asyncio.get_running_loop()._on_beam\n"
    "seen = []\n"
    "release = threading.Event()\n"
    "var = contextvars.ContextVar('var', default=0)\n"
    "def clear():\n"
    "    seen.clear(); release.clear()\n"
    "def plain(x): return x + 1\n"
    "def plain_name(): return threading.current_thread().name\n"
    "async def noop(x): return x\n"
    "async def zero(x):\n"
    "    await asyncio.sleep(0)\n"
    "    return x\n"
    "async def nap(seconds, x):\n"
    "    await asyncio.sleep(seconds)\n"
    "    return x\n"
    "async def boom(x):\n"
    "    raise ValueError(x)\n"
    "async def late_boom(x):\n"
    "    await asyncio.sleep(0)\n"
    "    raise KeyError(x)\n"
    "async def forever():\n"
    "    seen.append('began')\n"
    "    try:\n"
    "        await asyncio.Event().wait()\n"
    "    finally:\n"
    "        seen.append('finally')\n"
    "async def stubborn():\n"
    "    seen.append('began')\n"
    "    while not release.is_set():\n"
    "        try:\n"
    "            await asyncio.sleep(0.01)\n"
    "        except asyncio.CancelledError:\n"
    "            pass\n"
    "    seen.append('ended')\n"
    "async def spin():\n"
    "    seen.append('began')\n"
    "    while True: pass\n"
    "async def spin_in_a_task():\n"
    "    async def child():\n"
    "        try:\n"
    "            await spin()\n"
    "        except BaseException as e:\n"
    "            seen.append(type(e).__name__)\n"
    "    task = asyncio.create_task(child())\n"
    "    await asyncio.Event().wait()\n"
    "def spin_plain():\n"
    "    while True: pass\n"
    "async def stuck():\n"
    "    release.wait()\n"
    "def let_go(): release.set()\n"
    "async def inside():\n"
    "    task = asyncio.current_task()\n"
    "    assert task in asyncio.all_tasks()\n"
    "    assert asyncio.get_running_loop().is_running()\n"
    "    try:\n"
    "        async with asyncio.timeout(0.01):\n"
    "            await asyncio.sleep(60)\n"
    "    except TimeoutError:\n"
    "        pass\n"
    "    async with asyncio.TaskGroup() as group:\n"
    "        a = group.create_task(zero(1))\n"
    "        b = group.create_task(zero(2))\n"
    "    await asyncio.wait_for(asyncio.shield(zero(3)), 60)\n"
    "    assert asyncio.current_task() is task\n"
    "    repr(task)\n"
    "    return [a.result(), b.result(), task.get_coro().__qualname__, len(task.get_stack())]\n"
    "async def eager_timeout():\n"
    "    try:\n"
    "        async with asyncio.timeout(None):\n"
    "            return asyncio.current_task() is not None\n"
    "    except RuntimeError as e:\n"
    "        return str(e)\n"
    "async def bump():\n"
    "    var.set(var.get() + 1)\n"
    "    await asyncio.sleep(0)\n"
    "    return var.get()\n"
    "def bump_plain():\n"
    "    var.set(var.get() + 1)\n"
    "    return var.get()\n"
    "async def leave():\n"
    "    sys.exit(3)\n"
    "async def keyboard():\n"
    "    await asyncio.sleep(0)\n"
    "    raise KeyboardInterrupt\n"
    "async def stop_loop():\n"
    "    asyncio.get_running_loop().stop()\n"
    "    await asyncio.sleep(0.01)\n"
    "    return 'on'\n"
    "def future():\n"
    "    f = asyncio.get_running_loop().create_future()\n"
    "    asyncio.get_running_loop().call_soon(f.set_result, 'resolved')\n"
    "    return f\n"
    "def task():\n"
    "    return asyncio.ensure_future(zero('task'))\n"
    "class Awaitable:\n"
    "    def __await__(self):\n"
    "        yield from asyncio.sleep(0).__await__()\n"
    "        return 'awaited'\n"
    "async def agen():\n"
    "    yield 1\n"
    "at_once = 0\n"
    "most = 0\n"
    "async def counted(x):\n"
    "    global at_once, most\n"
    "    at_once += 1; most = max(most, at_once)\n"
    "    await asyncio.sleep(0.002)\n"
    "    at_once -= 1\n"
    "    return x\n"
    "def most_at_once():\n"
    "    global most\n"
    "    m = most; most = 0\n"
    "    return m\n"
    "class Account:\n"
    "    def __init__(self, n): self.n = n\n"
    "    async def add(self, m, *, times=1):\n"
    "        await asyncio.sleep(0)\n"
    "        return self.n + m * times\n".

runs_on_the_backend(Config) ->
    OnBeam = proplists:get_value(backend, Config) =:= beam,
    {ok, OnBeam} = py:async_await(py:async_call(async_fixture, on_beam, [])).

seen() ->
    {ok, Seen} = py:eval(<<"__import__('async_fixture').seen">>),
    Seen.

wait_seen(What) ->
    py_test_lib:eventually(fun() -> true = lists:member(What, seen()) end).

let_go() ->
    {ok, none} = py:call(async_fixture, let_go, []).

call(F, A) ->
    py:async_await(py:async_call(async_fixture, F, A)).

%% ---- one call ----

coroutine_and_plain_function(_) ->
    {ok, 7} = call(noop, [7]),
    {ok, 7} = call(zero, [7]),
    {ok, 8} = call(plain, [7]),
    {ok, 4.0} = py:async_await(py:async_call(math, sqrt, [16])),
    Ref = py:async_call(py:context(), asyncio, sleep, [0], #{result => done}),
    {ok, done} = py:async_await(Ref),
    %% The loop has a thread of its own, and one context has one.
    {ok, Name} = call(plain_name, []),
    {ok, Name} = call(plain_name, []),
    {ok, Other} = py:call(async_fixture, plain_name, []),
    ?assertNotEqual(Name, Other).

awaitables_that_are_no_coroutines(_) ->
    {ok, <<"resolved">>} = call(future, []),
    {ok, <<"task">>} = call(task, []),
    {ok, <<"awaited">>} = call('Awaitable', []),
    {error, {'TypeError', #{message := Message}}} = call(agen, []),
    ?assertMatch({match, _}, re:run(Message, "py:stream")).

exceptions_are_errors(_) ->
    {error, {'ValueError', #{message := <<"1">>, traceback := [#{function := <<"boom">>}]}}} = call(boom, [1]),
    {error, {'KeyError', #{message := <<"2">>, traceback := [#{function := <<"late_boom">>}]}}} = call(late_boom, [2]),
    {error, {'TypeError', _}} = call(noop, []),
    {error, {'AttributeError', _}} = call(nothing_of_that_name, []),
    {error, {'ModuleNotFoundError', _}} = py:async_await(py:async_call(no_such_module, f, [])).

not_a_call_at_all(_) ->
    ?assertError(_, py:async_call(async_fixture, noop, not_a_list)),
    {error, noproc} = py:async_await(py:async_call(spawn(fun() -> ok end), async_fixture, noop, [1])).

task_semantics_inside(_) ->
    {ok, [1, 2, <<"inside">>, Frames]} = call(inside, []),
    ?assert(Frames >= 1),
    {ok, true} = call(eager_timeout, []).

a_fresh_contextvars_context_each(_) ->
    [{ok, 1} = call(bump, []) || _ <- lists:seq(1, 3)],
    [{ok, 1} = call(bump_plain, []) || _ <- lists:seq(1, 3)],
    {ok, [1, 1, 1]} = py:async_gather([{async_fixture, bump, []} || _ <- lists:seq(1, 3)]).

%% ---- stopping ----

cancel_runs_finally(_) ->
    Ref = py:async_call(async_fixture, forever, []),
    wait_seen(<<"began">>),
    ok = py:async_cancel(Ref),
    {error, cancelled} = py:async_await(Ref),
    [<<"began">>, <<"finally">>] = seen().

cancel_of_what_is_done(_) ->
    Ref = py:async_call(async_fixture, noop, [1]),
    {ok, 1} = py:async_await(Ref),
    {error, done} = py:async_cancel(Ref),
    {error, done} = py:async_cancel(make_ref()).

await_timeout_cancels(_) ->
    Ref = py:async_call(async_fixture, forever, []),
    wait_seen(<<"began">>),
    {error, timeout} = py:async_await(Ref, 1),
    wait_seen(<<"finally">>).

await_timeout_leaves_no_message(_) ->
    Results = [py:async_await(py:async_call(async_fixture, nap, [0.001, I]), 1) || I <- lists:seq(1, 300)],
    [?assert(R =:= {ok, I} orelse R =:= {error, timeout}) || {R, I} <- lists:zip(Results, lists:seq(1, 300))],
    {ok, 1} = call(noop, [1]),
    py_test_lib:no_messages().

deadline_stops_a_coroutine(_) ->
    began_and_timed_out([{async_fixture, forever, []}]),
    wait_seen(<<"finally">>).

began_and_timed_out(Calls) ->
    {{error, timeout}, true} = py_test_lib:begun(
        fun(Ms) ->
            Result = py:async_gather(Calls, #{timeout => Ms}),
            {Result, lists:member(<<"began">>, seen())}
        end,
        {{error, timeout}, false}
    ).

deadline_stops_a_spinning_coroutine(_) ->
    Other = py:async_call(async_fixture, nap, [0.05, survived]),
    {error, timeout} = py:async_gather([{async_fixture, spin, []}], #{timeout => 20}),
    {ok, survived} = py:async_await(Other),
    {ok, 1} = call(noop, [1]).

deadline_stops_a_spinning_plain_function(_) ->
    {error, timeout} = py:async_gather([{async_fixture, spin_plain, []}, {async_fixture, noop, [1]}], #{timeout => 20}),
    {ok, 1} = call(noop, [1]).

%% The request waits; the task it has started is what holds up the loop.
deadline_stops_a_spinning_task_of_the_request(_) ->
    _ = began_and_timed_out([{async_fixture, spin_in_a_task, []}]),
    {ok, 1} = call(noop, [1]),
    wait_seen(<<"Interrupted">>).

deadline_answers_when_the_loop_is_stuck(_) ->
    abandoned([{async_fixture, stuck, []}, {async_fixture, noop, [1]}]),
    %% Behind it nothing has begun, so nothing was abandoned.
    {error, timeout} = py:async_gather([{async_fixture, noop, [1]}], #{timeout => 20}),
    let_go(),
    {ok, 1} = call(noop, [1]).

swallowed_cancel_is_abandoned(_) ->
    abandoned([{async_fixture, stubborn, []}]),
    let_go(),
    wait_seen(<<"ended">>).

abandoned(Calls) ->
    {error, {timeout, abandoned}} = py_test_lib:abandoning(fun() ->
        py_test_lib:begun(fun(Ms) -> py:async_gather(Calls, #{timeout => Ms}) end, {error, timeout})
    end).

callers_death_cancels(_) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        Ref = py:async_call(async_fixture, forever, []),
        py:async_await(Ref, infinity)
    end),
    wait_seen(<<"began">>),
    exit(Pid, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    wait_seen(<<"finally">>).

callers_death_before_it_runs(_) ->
    Blocker = py:async_call(async_fixture, stuck, []),
    {_, Monitor} = spawn_monitor(fun() -> py:async_call(async_fixture, forever, []) end),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    %% The sweep for dead callers finds it where it waits.
    py_test_lib:eventually(fun() -> #{loop_requests := 1} = py_context:info(py:context()) end),
    let_go(),
    {ok, none} = py:async_await(Blocker),
    {ok, 1} = call(noop, [1]),
    [] = seen().

interrupt_reaches_the_loop(_) ->
    Ref = py:async_call(async_fixture, forever, []),
    wait_seen(<<"began">>),
    ok = py:interrupt(py:context()),
    {error, interrupted} = py:async_await(Ref),
    wait_seen(<<"finally">>).

sys_exit_and_interrupt_stay_inside(_) ->
    {error, {'SystemExit', #{message := <<"3">>}}} = call(leave, []),
    {error, {'KeyboardInterrupt', _}} = call(keyboard, []),
    {ok, 1} = call(noop, [1]).

stop_called_by_user_code(_) ->
    {ok, <<"on">>} = call(stop_loop, []),
    {ok, 1} = call(zero, [1]).

%% ---- many ----

gather_in_order(_) ->
    Expected = lists:seq(1, 20),
    {ok, Expected} = py:async_gather([{async_fixture, nap, [(20 - I) / 2000, I]} || I <- Expected]),
    {ok, Expected} = py:async_gather([{async_fixture, noop, [I]} || I <- Expected]),
    {ok, [2, 1, 4.0]} =
        py:async_gather([{async_fixture, plain, [1]}, {async_fixture, zero, [1]}, {math, sqrt, [16]}]).

gather_reports_every_failure(_) ->
    {error, {gather_failed, [{2, {'ValueError', #{message := <<"b">>}}}, {4, {'KeyError', _}}]}} =
        py:async_gather([
            {async_fixture, zero, [1]},
            {async_fixture, boom, [<<"b">>]},
            {async_fixture, noop, [3]},
            {async_fixture, late_boom, [4]}
        ]).

gather_stops_at_the_first(_) ->
    {error, {gather_failed, [{2, {'KeyError', _}}]}} =
        py:async_gather(
            [{async_fixture, forever, []}, {async_fixture, late_boom, [4]}, {async_fixture, forever, []}],
            #{on_error => stop}
        ),
    [<<"began">>, <<"began">>, <<"finally">>, <<"finally">>] = seen().

gather_of_nothing(_) ->
    {ok, []} = py:async_gather([]).

gather_of_nonsense(_) ->
    {error, {gather_failed, [{1, {'TypeError', _}}]}} = py:async_gather([nonsense]),
    {error, {'TypeError', _}} = py:async_gather([{async_fixture, noop, [1]} | improper]),
    ?assertError({bad_option, {on_error, ignore}}, py:async_gather([], #{on_error => ignore})),
    ?assertError({bad_option, {concurrency, 0}}, py:async_gather([], #{concurrency => 0})),
    ?assertError({bad_option, {nonsense, 1}}, py:async_gather([], #{nonsense => 1})).

gather_with_concurrency(_) ->
    Expected = lists:seq(1, 50),
    {ok, _} = py:call(async_fixture, most_at_once, []),
    {ok, Expected} = py:async_gather([{async_fixture, counted, [I]} || I <- Expected], #{concurrency => 4}),
    {ok, 4} = py:call(async_fixture, most_at_once, []).

gather_deadline(_) ->
    _ = began_and_timed_out([{async_fixture, forever, []}, {async_fixture, noop, [1]}]),
    wait_seen(<<"finally">>),
    {error, timeout} = py:async_gather([{async_fixture, nap, [60, 1]} || _ <- lists:seq(1, 3000)], #{timeout => 50}).

gather_of_many(_) ->
    Expected = lists:seq(1, 20000),
    {ok, Expected} = py:async_gather([{async_fixture, zero, [I]} || I <- Expected]),
    {ok, Expected} = py:async_gather([{async_fixture, noop, [I]} || I <- Expected], #{concurrency => 10}).

gather_with_keywords_and_methods(_) ->
    {ok, Account} = py:call(async_fixture, 'Account', [10]),
    {ok, [11, 16]} = py:async_gather([{Account, add, [1]}, {Account, add, [2], #{times => 3}}]).

map_of_coroutines_and_functions(_) ->
    Expected = lists:seq(1, 100),
    {ok, _} = py:call(async_fixture, most_at_once, []),
    {ok, Expected} = py:map(async_fixture, counted, [[I] || I <- Expected], #{concurrency => 5}),
    {ok, 5} = py:call(async_fixture, most_at_once, []),
    {ok, Roots} = py:map(math, sqrt, [[I * I] || I <- Expected]),
    ?assertEqual([float(I) || I <- Expected], Roots),
    {ok, []} = py:map(math, sqrt, []),
    Context = py_test_lib:context(#{}),
    ok = py:exec(Context, <<"async def one(x): return x + 1\ndef two(x): return x + 2">>),
    {ok, [2, 3]} = py:map(Context, '__main__', one, [[1], [2]], #{}),
    {ok, [3, 4]} = py:map(Context, '__main__', two, [[1], [2]]),
    py_test_lib:drop(Context).

map_failures(_) ->
    {error, {gather_failed, [{2, {'ValueError', _}}, {4, {'TypeError', _}}]}} =
        py:map(math, sqrt, [[1], [-1], [4], [<<"x">>]]),
    {error, {gather_failed, [{2, {'ValueError', _}}]}} =
        py:map(math, sqrt, [[1], [-1] | [[4] || _ <- lists:seq(1, 100)]], #{on_error => stop, concurrency => 2}),
    {error, {gather_failed, [{1, {'ValueError', _}}]}} =
        py:map(async_fixture, boom, [[1], [2]], #{on_error => stop, concurrency => 1}).

map_stops_at_deadline(_) ->
    {error, timeout} = py:map(async_fixture, nap, [[60, 1]], #{timeout => 100}),
    {error, timeout} = py:map(async_fixture, spin_plain, [[], []], #{timeout => 100}).

many_callers(_) ->
    Results = py_test_lib:parallel(500, fun(I) ->
        [{ok, {I, K}} = {R, {I, K}} || K <- lists:seq(1, 20), {R, V} <- [call(zero, [{I, K}])], V =:= {I, K}]
    end),
    [?assertEqual(20, length(R)) || R <- Results].

callers_killed_by_the_hundred(_) ->
    Call = fun() -> py:async_await(py:async_call(async_fixture, forever, []), infinity) end,
    Pids = [spawn(Call) || _ <- lists:seq(1, 500)],
    py_test_lib:eventually(fun() -> 500 = length([S || <<"began">> = S <- seen()]) end),
    [exit(P, kill) || P <- Pids],
    py_test_lib:eventually(fun() -> 500 = length([S || <<"finally">> = S <- seen()]) end),
    {ok, 1} = call(noop, [1]).

%% ---- the end of a loop ----

context_stop_answers_all(_) ->
    Context = py_test_lib:context(#{}),
    Refs = [py:async_call(Context, async_fixture, forever, []) || _ <- lists:seq(1, 100)],
    py_test_lib:eventually(fun() -> 100 = length(seen()) end),
    ok = py_context:stop(Context),
    [{error, stopped} = py:async_await(R) || R <- Refs],
    py_test_lib:eventually(fun() -> 100 = length([S || <<"finally">> = S <- seen()]) end).

context_stop_while_the_loop_spins(_) ->
    Context = py_test_lib:context(#{}),
    Ref = py:async_call(Context, async_fixture, spin, []),
    wait_seen(<<"began">>),
    Behind = [py:async_call(Context, async_fixture, noop, [1]) || _ <- lists:seq(1, 100)],
    ok = py_context:stop(Context),
    [{error, stopped} = py:async_await(R) || R <- Behind],
    {error, stopped} = py:async_await(Ref).

context_kill_while_calls_run(_) ->
    Context = py_test_lib:context(#{}),
    Refs = [py:async_call(Context, async_fixture, nap, [0.01, I]) || I <- lists:seq(1, 1000)],
    Gather = spawn_monitor(fun() ->
        exit({result, py:async_gather(Context, [{async_fixture, forever, []} || _ <- lists:seq(1, 10)])})
    end),
    wait_seen(<<"began">>),
    exit(Context, kill),
    Results = [py:async_await(R) || R <- Refs],
    [?assert(R =:= {ok, I} orelse R =:= {error, stopped}) || {R, I} <- lists:zip(Results, lists:seq(1, 1000))],
    receive {'DOWN', _, _, _, {result, R}} -> {error, stopped} = R end,
    ?assertMatch({_, _}, Gather).

%% Those behind a loop that is stuck, those that wait inside, and a gather.
context_stop_with_tens_of_thousands_waiting(_) ->
    Context = py_test_lib:context(#{max_queue => infinity}),
    Inside = [py:async_call(Context, async_fixture, nap, [60, I]) || I <- lists:seq(1, 3000)],
    {ok, 1} = py:async_await(py:async_call(Context, async_fixture, plain, [0])),
    Stuck = py:async_call(Context, async_fixture, stuck, []),
    Behind = [py:async_call(Context, async_fixture, noop, [I]) || I <- lists:seq(1, 30000)],
    ok = py_context:stop(Context),
    [{error, stopped} = py:async_await(R) || R <- Behind],
    let_go(),
    [
        case py:async_await(R) of
            {error, stopped} -> ok;
            {error, {stopped, abandoned}} -> ok %% the loop was stuck for longer than they may be
        end
     || R <- [Stuck | Inside]
    ].

loop_stop_drains_and_restarts(_) ->
    Context = py_test_lib:context(#{}),
    {error, not_started} = py_context:stop_loop(Context, 1000),
    ok = py_context:start_loop(Context),
    Ref = py:async_call(Context, async_fixture, nap, [0.05, drained]),
    ok = py_context:stop_loop(Context, 10000),
    {ok, drained} = py:async_await(Ref),
    {ok, 1} = py:async_await(py:async_call(Context, async_fixture, zero, [1])),
    ok = py_context:stop_loop(Context, 0),
    ok = py_context:start_loop(Context),
    py_test_lib:drop(Context).

loop_stop_with_a_deadline_cancels(_) ->
    Context = py_test_lib:context(#{}),
    Ref = py:async_call(Context, async_fixture, forever, []),
    wait_seen(<<"began">>),
    ok = py_context:stop_loop(Context, 10),
    {error, stopped} = py:async_await(Ref),
    wait_seen(<<"finally">>),
    py_test_lib:drop(Context).

overloaded(_) ->
    Context = py_test_lib:context(#{max_queue => 10}),
    Blocker = py:async_call(Context, async_fixture, stuck, []),
    py_test_lib:eventually(fun() -> {ok, _} = py:call(Context, async_fixture, clear, []) end),
    Refs = [py:async_call(Context, async_fixture, noop, [1]) || _ <- lists:seq(1, 100)],
    Results = fun() -> [py:async_await(R) || R <- Refs] end,
    let_go(),
    {ok, none} = py:async_await(Blocker),
    ?assertEqual([{error, overloaded}], lists:usort(Results()) -- [{ok, 1}]),
    py_test_lib:drop(Context).

no_context(_) ->
    Context = py_test_lib:context(#{}),
    ok = py_context:stop(Context),
    {error, noproc} = py:async_await(py:async_call(Context, async_fixture, noop, [1])),
    {error, noproc} = py:async_gather(Context, [{async_fixture, noop, [1]}]),
    {error, noproc} = py:map(Context, async_fixture, noop, [[1]]).
