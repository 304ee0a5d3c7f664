% Chains, Erlang -> Python -> Erlang -> Python and so on: to any depth on one thread, many at once, cancelled,
% interrupted and timed out at every point, and what would be a deadlock refused.
-module(py_chain_SUITE).

-import(py_callback_SUITE, [source/0, unwrap/1, context/1, run/3, hanging/0, dead/1]).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 1}}].

all() ->
    [
        nested_100_deep_on_one_thread,
        nested_across_contexts,
        thousand_chains_on_one_thread_each,
        too_deep_is_refused_with_the_chain,
        strangers_wait_their_turn,
        nested_calls_of_one_function_at_once,
        request_left_behind_by_its_chain_runs,
        chain_that_has_ended_is_refused,
        cancel_at_every_point_of_a_chain,
        interrupt_in_a_chain,
        timeout_of_the_inner_request_only,
        inner_timeout_does_not_hit_the_outer,
        except_exception_swallows_nothing,
        context_stops_in_a_chain,
        cleaning_up_may_call
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_testcase(Case, Config) -> py_callback_SUITE:init_per_testcase(Case, Config).
end_per_testcase(Case, Config) -> py_callback_SUITE:end_per_testcase(Case, Config).

nested_100_deep_on_one_thread(Config) ->
    C = context(Config),
    {ok, 100} = run(Config, nest, [C, 100]),
    #{workers := 1} = py_context:info(C).

nested_across_contexts(Config) ->
    A = context(Config),
    B = py_test_lib:context(#{threads => 1}),
    ok = py:exec(B, source()),
    Deep = lists:duplicate(60, <<"x">>),
    {ok, Deep} = py:call(A, '__main__', bounce, [A, B, 60]),
    _ = [#{workers := 1} = py_context:info(C) || C <- [A, B]],
    py_context:stop(B).

thousand_chains_on_one_thread_each(_Config) ->
    Contexts = list_to_tuple([
        begin
            C = py_test_lib:context(#{threads => 1, spin_us => 0}),
            ok = py:exec(C, source()),
            C
        end
     || _ <- lists:seq(1, 8)
    ]),
    Depths = py_test_lib:parallel(1000, fun(I) ->
        C = element(1 + I rem 8, Contexts),
        {ok, N} = py:call(C, '__main__', nest, [C, 5], #{}, infinity),
        N
    end),
    Depths = lists:duplicate(1000, 5),
    _ = [#{workers := 1} = py_context:info(C) || C <- tuple_to_list(Contexts)],
    [py_context:stop(C) || C <- tuple_to_list(Contexts)].

%% Functions that call without any Python frame: only our own bound can stop them before the stack does.
too_deep_is_refused_with_the_chain(Config) ->
    C = context(Config),
    Tester = self(),
    ok = py:register_function(down, fun Down(N) ->
        case py:call(C, erlang, call, [down, N + 1], #{}, infinity) of
            {error, {'RecursionError', #{message := Message}}} -> Tester ! {refused, N, Message}, N;
            {ok, Deep} -> Deep;
            {error, _} = Error -> is_function(Down) andalso exit(Error)
        end
    end),
    {ok, N} = py:call(C, erlang, call, [down, 0], #{}, infinity),
    receive
        {refused, N, <<"chain ", _/binary>>} -> true = N > 100
    end.

%% While a chain waits on the only thread, a request of another one must not run on its stack.
strangers_wait_their_turn(Config) ->
    C = context(Config),
    Outer = py:spawn_call(C, '__main__', hang, [self()]),
    Function = hanging(),
    Stranger = py:spawn_call(C, '__main__', ident, [stranger]),
    py_test_lib:eventually(fun() -> #{queued := 1} = py_context:info(C) end),
    receive
        {Stranger, _} -> error(ran_on_a_stack_that_waits)
    after 50 -> ok
    end,
    exit(Function, done),
    {error, {'ErlangError', _}} = py:await(Outer),
    {ok, stranger} = py:await(Stranger).

nested_calls_of_one_function_at_once(Config) ->
    C = context(Config),
    ok = py:register_function(fan, fun(N) ->
        Refs = [py:spawn_call(C, '__main__', nest, [C, I]) || I <- lists:seq(1, N)],
        [unwrap(py:await(R)) || R <- Refs]
    end),
    Numbers = lists:seq(1, 20),
    {ok, Numbers} = run(Config, call, [fan, 20]).

request_left_behind_by_its_chain_runs(Config) ->
    C = context(Config),
    Tester = self(),
    ok = py:register_function(leave, fun() ->
        ok = py:cast(C, erlang, send, [Tester, cast]),
        _ = py:spawn_call(C, erlang, send, [Tester, spawned]),
        left
    end),
    {ok, left} = run(Config, call, [leave]),
    receive
        cast -> ok
    end,
    %% its caller is dead, so it may have been dropped
    receive
        spawned -> ok
    after 100 -> ok
    end.

chain_that_has_ended_is_refused(Config) ->
    C = context(Config),
    Tester = self(),
    ok = py:register_function(lend, fun() -> Tester ! {chain, py_callback:chain()}, ok end),
    {ok, ok} = run(Config, call, [lend]),
    receive
        {chain, Chain} ->
            put('$py_chain', Chain),
            {error, cancelled} = py:call(C, '__main__', ident, [1]),
            erase('$py_chain'),
            {ok, 1} = py:call(C, '__main__', ident, [1])
    end.

cancel_at_every_point_of_a_chain(Config) ->
    C = context(Config),
    [
        begin
            Ref = py:spawn_call(C, '__main__', through, [C, Depth, self()]),
            Function = hanging(),
            #{running := Running} = py_context:info(C),
            Depth = length(Running) - 1,
            cancelled = py_nif:cancel(Ref, false),
            {error, cancelled} = py:await(Ref),
            dead(Function),
            {ok, 1} = py:call(C, '__main__', ident, [1])
        end
     || Depth <- [0, 1, 2, 5, 20]
    ],
    #{workers := 1, lost_workers := 0} = py_context:info(C).

interrupt_in_a_chain(Config) ->
    C = context(Config),
    Ref = py:spawn_call(C, '__main__', through, [C, 3, self()]),
    Function = hanging(),
    ok = py:interrupt(C),
    {error, interrupted} = py:await(Ref),
    dead(Function),
    {ok, 1} = run(Config, ident, [1]).

timeout_of_the_inner_request_only(Config) ->
    C = context(Config),
    ok = py:register_function(impatient, fun(Tester) ->
        {error, timeout} = py:call(C, '__main__', hang, [Tester], #{}, 1000),
        {ok, _} = py:call(C, '__main__', ident, [fine]),
        survived
    end),
    {ok, survived} = run(Config, call, [impatient, self()]),
    dead(hanging()).

%% Interrupts of nested requests come while others begin and end on the same thread.
inner_timeout_does_not_hit_the_outer(Config) ->
    C = context(Config),
    ok = py:register_function(flaky, fun(Ms) ->
        case py:eval(C, <<"[None for _ in range(20000)] and 1">>, #{}, Ms) of
            {ok, 1} -> 1;
            {error, timeout} -> 0
        end
    end),
    ok = py:exec(C, <<
        "def outer(n):\n"
        "    done = 0\n"
        "    for i in range(n):\n"
        "        erlang.flaky(i % 3)\n"
        "        done += 1\n"
        "    return done\n"
    >>),
    {ok, 300} = run(Config, outer, [300]).

except_exception_swallows_nothing(Config) ->
    C = context(Config),
    ok = py:exec(C, <<
        "def framework(name, *args):\n"
        "    try:\n"
        "        return erlang.call(name, *args)\n"
        "    except Exception as e:\n"
        "        return ('swallowed', type(e).__name__)\n"
        "def outer(ctx, tester):\n"
        "    return framework('again', ctx, 'inner', [tester])\n"
        "def inner(tester):\n"
        "    return framework('hang', tester)\n"
    >>),
    %% an error of a function is an Exception, as it should be
    ok = py:register_function(fails, fun() -> error(x) end),
    {ok, {<<"swallowed">>, <<"ErlangError">>}} = run(Config, framework, [fails]),
    %% nothing else: neither a nested result that is still to come, nor the end of the request
    {ok, 3} = run(Config, framework, [add, 1, 2]),
    Ref = py:spawn_call(C, '__main__', outer, [C, self()]),
    Function = hanging(),
    cancelled = py_nif:cancel(Ref, false),
    {error, cancelled} = py:await(Ref),
    dead(Function),
    {error, timeout} = py:call(C, '__main__', outer, [C, self()], #{}, 1000),
    dead(hanging()).

context_stops_in_a_chain(Config) ->
    C = py_test_lib:context(#{threads => 1}),
    ok = py:exec(C, source()),
    Ref = py:spawn_call(C, '__main__', through, [C, 2, self()]),
    Function = hanging(),
    py_context:stop(C),
    {error, stopped} = py:await(Ref),
    dead(Function),
    {ok, 1} = run(Config, ident, [1]).

%% What was told to stop can still tell Erlang so.
cleaning_up_may_call(Config) ->
    C = context(Config),
    ok = py:exec(C, <<
        "def untidy(tester):\n"
        "    try:\n"
        "        erlang.call('hang', tester)\n"
        "    finally:\n"
        "        erlang.call('released', tester)\n"
    >>),
    ok = py:register_function(released, fun(Tester) -> Tester ! released, ok end),
    {error, timeout} = py:call(C, '__main__', untidy, [self()], #{}, 1000),
    dead(hanging()),
    receive released -> ok end.
