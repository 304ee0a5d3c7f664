%% Python calls Erlang: results and errors, death on either side, every kind of thread, coroutines, the end of the
%% application and the VM. Chains are in py_chain_SUITE.
-module(py_callback_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        ways_of_calling,
        only_registered_names_resolve,
        binaries_as_bytes,
        errors_have_class_reason_and_stack,
        errors_cross_back_with_both_stacks,
        error_whose_reason_has_no_python_value,
        function_that_dies,
        function_that_is_killed_by_others,
        function_that_hangs_is_killed_at_its_timeout,
        function_outlives_its_caller_not,
        server_that_dies_fails_its_calls,
        deadline_is_inherited,
        callers_are_inherited,
        apply_is_for_what_is_allowed,
        funs_are_callable,
        conversion_of_an_argument_fails,
        argument_that_calls_back_while_it_is_converted,
        from_threads_and_executors,
        hundred_threads_at_once,
        replies_reach_who_asked,
        coroutines_on_the_loop_of_a_context,
        loop_that_waits_for_itself_is_refused,
        blocked_step_of_a_loop_is_interrupted,
        async_call_on_both_loops,
        cancelled_task_kills_the_function,
        dropped_pending_call_kills_the_function,
        application_restarts_while_python_calls,
        vm_stops_while_executors_call
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_testcase(_Case, Config) ->
    C = py_test_lib:context(#{threads => 1}),
    ok = py:exec(C, source()),
    ok = py:register_function(add, fun(A, B) -> A + B end),
    ok = py:register_function(echo, fun(X) -> X end),
    ok = py:register_function(hang, fun(Tester) -> Tester ! {hanging, self()}, receive after infinity -> ok end end),
    ok = py:register_function(again, fun(Context, Function, Args) ->
        unwrap(py:call(Context, '__main__', Function, Args))
    end),
    [{context, C} | Config].

end_per_testcase(_Case, Config) ->
    py_context:stop(proplists:get_value(context, Config)),
    _ = [py:unregister_function(N) || N <- py_callback:names()],
    py_test_lib:eventually(fun() -> 0 = maps:get(callbacks, py_nif:counters()) end),
    py_test_lib:no_messages().

source() ->
    <<
        "import asyncio, concurrent.futures, threading, time\n"
        "import erlang\n"
        "def call(name, *args):\n"
        "    return erlang.call(name, *args)\n"
        "def nest(ctx, n):\n"
        "    return 0 if n == 0 else 1 + erlang.call('again', ctx, 'nest', [ctx, n - 1])\n"
        "def bounce(a, b, n):\n"
        "    return [] if n == 0 else ['x'] + erlang.call('again', b, 'bounce', [b, a, n - 1])\n"
        "def hang(tester):\n"
        "    return erlang.call('hang', tester)\n"
        "def through(ctx, n, tester):\n"
        "    if n == 0:\n"
        "        return erlang.call('hang', tester)\n"
        "    return erlang.call('again', ctx, 'through', [ctx, n - 1, tester])\n"
        "def ident(x):\n"
        "    return x\n"
        "def spin(tester):\n"
        "    erlang.send(tester, 'spinning')\n"
        "    while True:\n"
        "        pass\n"
    >>.

unwrap({ok, Value}) -> Value;
unwrap(Error) -> error(Error).

context(Config) -> proplists:get_value(context, Config).

run(Config, Function, Args) -> py:call(context(Config), '__main__', Function, Args).

%% The process of a hanging function, once it hangs.
hanging() ->
    receive
        {hanging, Pid} -> Pid
    end.

%% Returns when Pid is dead.
dead(Pid) ->
    Ref = monitor(process, Pid),
    receive
        {'DOWN', Ref, process, Pid, _} -> ok
    end.

%% ---- calls ----

ways_of_calling(Config) ->
    C = context(Config),
    {ok, 3} = run(Config, call, [add, 1, 2]),
    {ok, 3} = py:eval(C, <<"erlang.add(1, 2)">>),
    {ok, 3} = py:eval(C, <<"erlang.call(erlang.Atom('add'), 1, 2, timeout=5)">>),
    ok = py:exec(C, <<"from erlang import add\nx = add(2, 3)">>),
    {ok, 5} = py:eval(C, <<"x">>),
    ok = py:register_function(<<"minus">>, erlang, '-'),
    {ok, -1} = py:eval(C, <<"erlang.minus(1, 2)">>),
    ok = py:register_function(minus, {erlang, '+'}),
    {ok, 3} = py:eval(C, <<"erlang.minus(1, 2)">>),
    {error, {'TypeError', _}} = py:eval(C, <<"erlang.add(1, b=2)">>),
    {error, {'TypeError', _}} = py:eval(C, <<"erlang.call()">>),
    {error, {'TypeError', _}} = py:eval(C, <<"erlang.call(1)">>),
    {error, {'ValueError', _}} = py:eval(C, <<"erlang.call('add', 1, 2, timeout=-1)">>),
    Big = [#{<<"k">> => lists:seq(1, 1000), 1.5 => {a, self()}} || _ <- lists:seq(1, 20)],
    {ok, Big} = run(Config, call, [echo, Big]).

only_registered_names_resolve(Config) ->
    C = context(Config),
    ok = py:unregister_function(add),
    {error, {'AttributeError', _}} = py:eval(C, <<"erlang.add">>),
    {ok, false} = py:eval(C, <<"hasattr(erlang, '__path__x') or hasattr(erlang, '__wrapped__')">>),
    {error, {'ImportError', _}} = py:exec(C, <<"from erlang import add">>),
    {error, {'ErlangError', #{erlang := {error, {not_registered, <<"add">>}, _}}}} = run(Config, call, [add, 1, 2]),
    {ok, true} = py:eval(C, <<"__import__('inspect').getmodule(erlang.call) is not erlang">>).

binaries_as_bytes(Config) ->
    ok = py:register_function(raw, fun() -> <<"abc">> end, #{binaries => bytes}),
    {ok, true} = py:eval(context(Config), <<"erlang.raw() == b'abc' and erlang.echo('abc') == 'abc'">>).

%% ---- errors ----

errors_have_class_reason_and_stack(Config) ->
    C = context(Config),
    ok = py:register_function(fails, fun
        (error) -> error({bad, thing});
        (exit) -> exit({shutdown, 1});
        (throw) -> throw(ball);
        (Bad) -> list_to_atom(Bad)
    end),
    ok = py:exec(C, <<
        "def caught(kind):\n"
        "    try:\n"
        "        erlang.fails(kind)\n"
        "    except erlang.ErlangError as e:\n"
        "        return e.class_, e.reason, str(e), e.stacktrace\n"
    >>),
    {ok, {<<"error">>, {bad, thing}, <<"exception error: {bad,thing}">>, [{Module, _, 1, File, Line} | _]}} =
        run(Config, caught, [error]),
    ?MODULE = Module,
    <<"py_callback_SUITE.erl">> = filename:basename(File),
    true = is_integer(Line),
    {ok, {<<"exit">>, {shutdown, 1}, <<"exception exit: {shutdown,1}">>, _}} = run(Config, caught, [exit]),
    {ok, {<<"throw">>, ball, <<"exception throw: ball">>, _}} = run(Config, caught, [throw]),
    {ok, {<<"error">>, badarg, <<"exception error: bad argument", _/binary>>, [{erlang, list_to_atom, 1, _, _} | _]}} =
        run(Config, caught, [badarg]),
    {error, {'ErlangError', #{erlang := {error, {badarity, _}, _}}}} = py:eval(C, <<"erlang.add(1)">>).

errors_cross_back_with_both_stacks(Config) ->
    ok = py:register_function(fails, fun() -> error(oops) end),
    {error, {'ErlangError', Map} = E} = run(Config, call, [fails]),
    #{erlang := {error, oops, [{?MODULE, _, 0, _} | _]}, traceback := [#{function := <<"call">>}]} = Map,
    Text = unicode:characters_to_binary(py:format_error(E)),
    {match, _} = re:run(Text, "erlang.ErlangError: exception error: oops"),
    {match, _} = re:run(Text, "py_callback_SUITE.erl").

error_whose_reason_has_no_python_value(Config) ->
    ok = py:register_function(fails, fun() -> error(#{#{} => 1}) end),
    {error, {'ErlangError', #{erlang := {error, #{#{} := 1}, _}}}} = run(Config, call, [fails]).

function_that_dies(Config) ->
    ok = py:register_function(dies, fun() -> exit(self(), kill), receive after infinity -> ok end end),
    {error, {'ErlangError', #{erlang := {exit, killed, []}}}} = run(Config, call, [dies]),
    ok = py:register_function(linked, fun() ->
        spawn_link(fun() -> exit(boom) end),
        receive after infinity -> ok end
    end),
    {error, {'ErlangError', #{erlang := {exit, boom, []}}}} = run(Config, call, [linked]),
    ok = py:register_function(leaves, fun() -> exit(normal) end),
    {error, {'ErlangError', #{erlang := {exit, normal, _}}}} = run(Config, call, [leaves]).

function_that_is_killed_by_others(Config) ->
    Self = self(),
    Ref = py:spawn_call(context(Config), '__main__', hang, [Self]),
    exit(hanging(), murdered),
    {error, {'ErlangError', #{erlang := {exit, murdered, []}}}} = py:await(Ref).

function_that_hangs_is_killed_at_its_timeout(Config) ->
    {error, {'TimeoutError', _}} = py:eval(context(Config), <<"erlang.call('hang', p, timeout=1)">>, #{p => self()}),
    dead(hanging()),
    {error, {'TimeoutError', _}} = py:eval(context(Config), <<"erlang.call('hang', p, timeout=0)">>, #{p => self()}),
    receive
        {hanging, Pid} -> dead(Pid)
    after 100 -> ok
    end.

function_outlives_its_caller_not(Config) ->
    Self = self(),
    {Caller, Ref} = spawn_monitor(fun() -> run(Config, hang, [Self]) end),
    Function = hanging(),
    exit(Caller, kill),
    receive
        {'DOWN', Ref, process, Caller, killed} -> dead(Function)
    end,
    {ok, 3} = run(Config, call, [add, 1, 2]).

server_that_dies_fails_its_calls(Config) ->
    Refs = [
        begin
            C = py_test_lib:context(#{}),
            ok = py:exec(C, source()),
            {C, py:spawn_call(C, '__main__', hang, [self()])}
        end
     || _ <- lists:seq(1, 4)
    ],
    Functions = [hanging() || _ <- Refs],
    Servers = [P || {{py_callback, _}, P, worker, _} <- supervisor:which_children(erlang_python_sup)],
    true = Servers =/= [],
    _ = [exit(P, kill) || P <- Servers],
    _ = [{error, {'ErlangError', #{erlang := {exit, noproc, []}}}} = py:await(R) || {_, R} <- Refs],
    _ = [dead(F) || F <- Functions],
    _ = [py_context:stop(C) || {C, _} <- Refs],
    py_test_lib:eventually(fun() -> {ok, 3} = run(Config, call, [add, 1, 2]) end).

deadline_is_inherited(Config) ->
    C = context(Config),
    ok = py:register_function(slow, fun() ->
        exit(py:eval(C, <<"time.sleep(0.01) or [0 for _ in iter(int, 1)]">>, #{}, infinity))
    end),
    {error, timeout} = py:call(C, erlang, call, [slow], #{}, 200),
    {ok, 3} = run(Config, call, [add, 1, 2]).

callers_are_inherited(Config) ->
    Self = self(),
    ok = py:register_function(callers, fun() -> {get('$callers'), is_tuple(py_callback:chain())} end),
    {ok, {[Self], true}} = run(Config, call, [callers]),
    {ok, Self} = py:eval(context(Config), <<"erlang.self()">>),
    ok = py:register_function(inner, fun() ->
        F = self(),
        {ok, {[F, Self], true}} = run(Config, call, [callers]),
        inner
    end),
    {ok, inner} = run(Config, call, [inner]),
    {error, {'RuntimeError', _}} = py:eval(
        context(Config), <<"concurrent.futures.ThreadPoolExecutor().submit(erlang.self).result()">>
    ),
    undefined = py_callback:chain().

apply_is_for_what_is_allowed(Config) ->
    C = context(Config),
    Reverse = <<"erlang.apply('lists', 'reverse', [[1, 2]])">>,
    {error, {'ErlangError', #{erlang := {error, {not_allowed, _}, _}}}} = py:eval(C, Reverse),
    ok = py:register_function(rev, lists, reverse),
    {ok, [2, 1]} = py:eval(C, Reverse),
    ok = py:unregister_function(rev),
    try
        _ = [
            begin
                ok = application:set_env(erlang_python, callback_apply, Allowed),
                Answer = py:eval(C, Reverse)
            end
         || {Allowed, Answer} <- [
                {[lists], {ok, [2, 1]}},
                {[{lists, reverse}], {ok, [2, 1]}},
                {[{lists, reverse, 1}], {ok, [2, 1]}},
                {all, {ok, [2, 1]}}
            ]
        ],
        ok = application:set_env(erlang_python, callback_apply, [{lists, reverse, 2}, maps]),
        {error, {'ErlangError', _}} = py:eval(C, Reverse),
        {error, {'ErlangError', _}} = py:eval(C, <<"erlang.apply('no such module at all', 'x')">>)
    after
        application:unset_env(erlang_python, callback_apply)
    end.

funs_are_callable(Config) ->
    C = context(Config),
    {ok, [2, 4]} = py:eval(C, <<"[f(x) for x in (1, 2)]">>, #{f => fun(X) -> 2 * X end}),
    {ok, 7} = py:eval(C, <<"f(3, timeout=5)">>, #{f => fun(X) -> X + 4 end}),
    {ok, <<"[3, 2, 1]">>} = py:eval(C, <<"str(sorted([1, 2, 3], key=f))">>, #{f => fun(X) -> -X end}),
    {error, {'ErlangError', _}} = py:eval(C, <<"f()">>, #{f => fun(X) -> X end}).

conversion_of_an_argument_fails(Config) ->
    {error, {'UnicodeEncodeError', _}} = py:eval(context(Config), <<"erlang.echo('\\ud800')">>),
    {error, {'ValueError', _}} = py:eval(context(Config), <<"(lambda a: (a.append(a), erlang.echo(a)))([])">>).

argument_that_calls_back_while_it_is_converted(Config) ->
    C = context(Config),
    ok = py:exec(C, <<
        "class Lazy: pass\n"
        "erlang.register_encoder(Lazy, lambda lazy: erlang.call('again', ctx, 'nest', [ctx, 3]))\n"
    >>),
    ok = py:exec(C, <<"ctx = None">>),
    {ok, _} = py:call(C, '__main__', '__dict__.__setitem__', [ctx, C]),
    {ok, [3, 3]} = py:eval(C, <<"erlang.echo([Lazy(), Lazy()])">>).

%% ---- threads ----

from_threads_and_executors(Config) ->
    C = context(Config),
    ok = py:exec(C, <<
        "def threaded(n):\n"
        "    out = []\n"
        "    threads = [threading.Thread(target=lambda i=i: out.append(erlang.add(i, i))) for i in range(n)]\n"
        "    [t.start() for t in threads]\n"
        "    [t.join() for t in threads]\n"
        "    return sorted(out)\n"
        "def executed(n):\n"
        "    with concurrent.futures.ThreadPoolExecutor(8) as pool:\n"
        "        return list(pool.map(lambda i: erlang.add(i, 1), range(n)))\n"
    >>),
    Doubled = [2 * I || I <- lists:seq(0, 49)],
    {ok, Doubled} = run(Config, threaded, [50]),
    Numbers = lists:seq(1, 500),
    {ok, Numbers} = run(Config, executed, [500]).

hundred_threads_at_once(Config) ->
    C = context(Config),
    Tester = self(),
    ok = py:register_function(meet, fun(I) -> Tester ! {here, I, self()}, receive go -> I end end),
    ok = py:exec(C, <<
        "def crowd(n):\n"
        "    with concurrent.futures.ThreadPoolExecutor(n) as pool:\n"
        "        return list(pool.map(erlang.meet, range(n)))\n"
    >>),
    Ref = py:spawn_call(C, '__main__', crowd, [100]),
    Waiting = [
        receive
            {here, I, Pid} -> {I, Pid}
        end
     || _ <- lists:seq(1, 100)
    ],
    _ = [Pid ! go || {_, Pid} <- lists:reverse(lists:sort(Waiting))],
    Numbers = lists:seq(0, 99),
    {ok, Numbers} = py:await(Ref).

%% Functions that answer in another order than they were called.
replies_reach_who_asked(Config) ->
    ok = py:register_function(late, fun(I) -> timer:sleep(I rem 7), {I, I * I} end),
    ok = py:exec(context(Config), <<
        "def many(n):\n"
        "    with concurrent.futures.ThreadPoolExecutor(32) as pool:\n"
        "        return all(r == (i, i * i) for i, r in enumerate(pool.map(erlang.late, range(n))))\n"
    >>),
    {ok, true} = run(Config, many, [2000]).

%% ---- asyncio ----

coroutines_on_the_loop_of_a_context(Config) ->
    C = context(Config),
    Self = self(),
    ok = py:register_function(callers, fun() -> get('$callers') end),
    ok = py:exec(C, <<
        "async def who():\n"
        "    return erlang.self(), await erlang.async_call('callers'), erlang.call('callers')\n"
        "async def nested(ctx, n):\n"
        "    return 0 if n == 0 else 1 + await erlang.async_call('deeper', ctx, n - 1)\n"
    >>),
    ok = py:register_function(deeper, fun(Context, N) ->
        unwrap(py:await(py:async_call(Context, '__main__', nested, [Context, N])))
    end),
    {ok, {Self, [Self], [Self]}} = py:await(py:async_call(C, '__main__', who, [])),
    {ok, 50} = py:await(py:async_call(C, '__main__', nested, [C, 50])).

loop_that_waits_for_itself_is_refused(Config) ->
    C = context(Config),
    ok = py:exec(C, <<
        "async def blocks(ctx):\n"
        "    return erlang.call('asks', ctx)\n"
        "async def answer():\n"
        "    return 42\n"
    >>),
    ok = py:register_function(asks, fun(Context) -> py:await(py:async_call(Context, '__main__', answer, [])) end),
    {ok, {error, {deadlock, Chain}}} = py:await(py:async_call(C, '__main__', blocks, [C])),
    true = is_integer(Chain),
    {match, _} = re:run(py:format_error({deadlock, Chain}), integer_to_list(Chain)),
    {ok, 42} = py:await(py:async_call(C, '__main__', answer, [])).

blocked_step_of_a_loop_is_interrupted(Config) ->
    C = context(Config),
    ok = py:exec(C, <<"async def blocks(tester):\n    erlang.call('hang', tester)\n">>),
    Ref = py:async_call(C, '__main__', blocks, [self()]),
    Function = hanging(),
    ok = py:async_cancel(Ref),
    {error, cancelled} = py:await(Ref),
    dead(Function).

async_call_on_both_loops(Config) ->
    C = context(Config),
    ok = py:register_function(fails, fun() -> throw(ball) end),
    ok = py:exec(C, <<
        "async def work(tester):\n"
        "    many = await asyncio.gather(*(erlang.async_call('add', i, i) for i in range(200)))\n"
        "    try:\n"
        "        await erlang.async_call('fails')\n"
        "    except erlang.ErlangError as e:\n"
        "        ball = e.class_, e.reason\n"
        "    try:\n"
        "        await erlang.async_call('hang', tester, timeout=1)\n"
        "    except TimeoutError:\n"
        "        pass\n"
        "    return sum(many), ball, await asyncio.to_thread(erlang.add, 1, 1)\n"
        "def stock(tester):\n"
        "    return asyncio.run(work(tester))\n"
        "def ours(tester):\n"
        "    return erlang.run(work(tester))\n"
    >>),
    _ = [
        begin
            {ok, {39800, {<<"throw">>, ball}, 2}} = run(Config, F, [self()]),
            dead(hanging())
        end
     || F <- [stock, ours]
    ],
    ok.

cancelled_task_kills_the_function(Config) ->
    C = context(Config),
    ok = py:exec(C, <<
        "async def cancelled(tester, started):\n"
        "    task = asyncio.create_task(erlang.async_call('hang', tester))\n"
        "    await erlang.async_call(started)\n"
        "    task.cancel()\n"
        "    try:\n"
        "        await task\n"
        "    except asyncio.CancelledError:\n"
        "        return 'cancelled'\n"
        "def run_cancelled(tester, started):\n"
        "    return erlang.run(cancelled(tester, started))\n"
    >>),
    Tester = self(),
    Started = fun() -> Tester ! {ask, self()}, receive go -> ok end end,
    Ref = py:spawn_call(C, '__main__', run_cancelled, [Tester, Started]),
    Function = hanging(),
    receive
        {ask, Pid} -> Pid ! go
    end,
    {ok, <<"cancelled">>} = py:await(Ref),
    dead(Function).

dropped_pending_call_kills_the_function(Config) ->
    ok = py:exec(context(Config), <<
        "import _erlang\n"
        "def keep(tester):\n"
        "    global pending\n"
        "    pending = _erlang.start('hang', (tester,))\n"
        "def drop():\n"
        "    global pending\n"
        "    del pending\n"
    >>),
    {ok, none} = run(Config, keep, [self()]),
    Function = hanging(),
    {ok, none} = run(Config, drop, []),
    dead(Function).

%% ---- the end ----

application_restarts_while_python_calls(_Config) ->
    Code =
        "{ok, _} = application:ensure_all_started(erlang_python),\n"
        "ok = py:register_function(add, fun(A, B) -> A + B end),\n"
        "ok = py:exec(<<\"\n"
        "import erlang, threading, concurrent.futures\n"
        "ended = []\n"
        "def forever():\n"
        "    try:\n"
        "        add = erlang.add\n"
        "        while add(1, 2): begun.release()\n"
        "    except BaseException as e: ended.append(type(e).__name__)\n"
        "begun = threading.Semaphore(0)\n"
        "threads = [threading.Thread(target=forever, daemon=True) for _ in range(8)]\n"
        "for t in threads: t.start()\n"
        "for _ in range(100): begun.acquire()\n"
        "\">>),\n"
        "ok = application:stop(erlang_python),\n"
        "ok = application:start(erlang_python),\n"
        "ok = py:exec(<<\"for t in threads: t.join(60)\">>),\n"
        "{ok, Ended} = py:eval(<<\"ended\">>),\n"
        "Ended = lists:duplicate(8, <<\"ErlangError\">>),\n"
        "ok = py:register_function(add, fun(A, B) -> A + B end),\n"
        "{ok, 3} = py:eval(<<\"erlang.add(1, 2)\">>),\n"
        "io:format(\"fine\"), halt(0).",
    {0, Output} = py_test_lib:run_node([], Code),
    {match, _} = re:run(Output, "fine$").

vm_stops_while_executors_call(_Config) ->
    Code =
        "{ok, _} = application:ensure_all_started(erlang_python),\n"
        "ok = py:register_function(add, fun(A, B) -> A + B end),\n"
        "ok = py:register_function(hang, fun() -> receive after infinity -> ok end end),\n"
        "ok = py:exec(<<\"\n"
        "import erlang, threading, concurrent.futures\n"
        "def forever():\n"
        "    while erlang.add(1, 2): begun.release()\n"
        "begun = threading.Semaphore(0)\n"
        "pool = concurrent.futures.ThreadPoolExecutor(8)\n"
        "for _ in range(6): pool.submit(forever)\n"
        "for _ in range(2): pool.submit(erlang.call, 'hang')\n"
        "for _ in range(100): begun.acquire()\n"
        "\">>),\n"
        "io:format(\"stopping\"), init:stop().",
    {0, Output} = py_test_lib:run_node([], Code),
    {match, _} = re:run(Output, "stopping").
