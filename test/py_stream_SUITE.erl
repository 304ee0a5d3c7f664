%% Streams: iterators and generators, also async ones, as lists and as messages with credit.
-module(py_stream_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [{group, native}, {group, beam}].

groups() ->
    Cases = [
        runs_on_the_backend,
        lists_of_all_kinds,
        list_of_an_expression,
        errors_of_lists,
        list_stops_at_its_deadline,
        messages_of_a_generator,
        messages_of_an_async_generator,
        nothing_at_all,
        error_after_items,
        error_of_the_call,
        item_without_a_term,
        credit_bounds_what_is_sent,
        credit_of_an_async_generator,
        credit_of_nothing_sends_nothing,
        ack_of_what_is_done,
        cancel_closes_the_generator,
        cancel_of_an_async_generator,
        cancel_of_a_parked_stream,
        cancel_of_a_blocked_generator,
        cancel_by_another_process,
        cancel_twice,
        cancel_takes_the_messages,
        owners_death_closes,
        owners_death_while_parked,
        exception_in_finally,
        generator_stops_itself,
        calls_go_on_beside_an_endless_stream,
        coroutines_go_on_beside_an_endless_async_stream,
        async_streams_share_the_loop,
        many_streams,
        context_stop_ends_streams,
        parked_stream_of_a_stopped_context,
        parked_streams_of_a_killed_context,
        forgotten_stream_is_closed,
        bad_options,
        no_context
    ],
    [{native, Cases}, {beam, Cases}].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    _ = py_test_lib:module(Started, "stream_fixture", fixture()),
    Started.

end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_group(Backend, Config) -> py_test_lib:loop(Backend, Config).

end_per_group(_Group, Config) -> py_test_lib:loop(native, Config).

init_per_testcase(_Case, Config) ->
    {ok, _} = py:call(stream_fixture, clear, []),
    Config.

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages().

fixture() ->
    "import asyncio, threading\n"
    "def on_beam(): return asyncio.get_running_loop()._on_beam\n"
    "seen = []\n"
    "gate = threading.Event()\n"
    "def clear():\n"
    "    seen.clear(); gate.clear()\n"
    "def count(n):\n"
    "    try:\n"
    "        yield from range(n)\n"
    "    finally:\n"
    "        seen.append('closed')\n"
    "async def acount(n):\n"
    "    try:\n"
    "        for i in range(n):\n"
    "            yield i\n"
    "    finally:\n"
    "        await asyncio.sleep(0)\n"
    "        seen.append('aclosed')\n"
    "async def aslow(n):\n"
    "    for i in range(n):\n"
    "        await asyncio.sleep(0)\n"
    "        yield i\n"
    "def endless():\n"
    "    i = 0\n"
    "    try:\n"
    "        while True:\n"
    "            yield i\n"
    "            i += 1\n"
    "    finally:\n"
    "        seen.append('closed')\n"
    "async def aendless():\n"
    "    i = 0\n"
    "    try:\n"
    "        while True:\n"
    "            yield i\n"
    "            i += 1\n"
    "    finally:\n"
    "        seen.append('aclosed')\n"
    "async def thread_name():\n"
    "    yield threading.current_thread().name\n"
    "    await asyncio.sleep(0)\n"
    "    yield threading.current_thread().name\n"
    "def broken(n):\n"
    "    yield from range(n)\n"
    "    raise ValueError('after', n)\n"
    "def spin():\n"
    "    yield 1\n"
    "    seen.append('spins')\n"
    "    while True: pass\n"
    "def bad_finally():\n"
    "    try:\n"
    "        yield 1\n"
    "        yield 2\n"
    "    finally:\n"
    "        seen.append('closed')\n"
    "        raise KeyError('in finally')\n"
    "def stops():\n"
    "    yield 1\n"
    "    raise KeyboardInterrupt\n"
    "class Iterator:\n"
    "    def __init__(self): self.left = 3\n"
    "    def __iter__(self): return self\n"
    "    def __next__(self):\n"
    "        self.left -= 1\n"
    "        if self.left < 0: raise StopIteration\n"
    "        return self.left\n"
    "class AsyncIterator(Iterator):\n"
    "    def __aiter__(self): return self\n"
    "    async def __anext__(self):\n"
    "        try: return next(self)\n"
    "        except StopIteration: raise StopAsyncIteration from None\n"
    "async def noop(x): return x\n"
    "def gone():\n"
    "    raise LookupError('no generator')\n".

runs_on_the_backend(Config) ->
    OnBeam = proplists:get_value(backend, Config) =:= beam,
    {ok, OnBeam} = py:async_await(py:async_call(stream_fixture, on_beam, [])).

seen() ->
    {ok, Seen} = py:eval(<<"__import__('stream_fixture').seen">>),
    Seen.

wait_seen(What) ->
    py_test_lib:eventually(fun() -> true = lists:member(What, seen()) end).

start(Function, Args) ->
    start(Function, Args, #{}).

start(Function, Args, Options) ->
    {ok, Ref} = py:stream_start(stream_fixture, Function, Args, Options),
    Ref.

items(Ref) ->
    receive
        {py_stream, Ref, {data, Item}} -> [Item | items(Ref)];
        {py_stream, Ref, Last} -> [Last]
    end.

take(_Ref, 0) -> [];
take(Ref, N) ->
    receive {py_stream, Ref, {data, Item}} -> [Item | take(Ref, N - 1)] end.

%% ---- lists ----

lists_of_all_kinds(_) ->
    {ok, [0, 1, 2]} = py:stream(builtins, range, [3]),
    {ok, [0, 1, 2]} = py:stream(stream_fixture, count, [3]),
    {ok, [0, 1, 2]} = py:stream(stream_fixture, acount, [3]),
    {ok, [0, 1, 2]} = py:stream(stream_fixture, aslow, [3]),
    {ok, [2, 1, 0]} = py:stream(stream_fixture, 'Iterator', []),
    {ok, [2, 1, 0]} = py:stream(stream_fixture, 'AsyncIterator', []),
    {ok, [{0, 5}, {1, 6}]} = py:stream(builtins, enumerate, [[5, 6]], #{start => 0}),
    {ok, [0, 1]} = py:stream(py:context(), stream_fixture, count, [2]),
    Expected = lists:seq(0, 99999),
    {ok, Expected} = py:stream(stream_fixture, count, [100000]),
    {ok, Expected} = py:stream(stream_fixture, acount, [100000]).

list_of_an_expression(_) ->
    {ok, [0, 1, 4]} = py:stream_eval(<<"(x * x for x in range(3))">>),
    {ok, [5, 6]} = py:stream_eval(<<"(x + n for x in (1, 2))">>, #{n => 4}),
    {ok, [0, 1]} = py:stream_eval(<<"__import__('stream_fixture').acount(n)">>, #{n => 2}),
    {error, {'SyntaxError', _}} = py:stream_eval(<<"(">>).

errors_of_lists(_) ->
    {error, {'ValueError', _}} = py:stream(stream_fixture, broken, [3]),
    {error, {'LookupError', _}} = py:stream(stream_fixture, gone, []),
    {error, {'TypeError', #{message := Message}}} = py:stream(math, sqrt, [4]),
    ?assertMatch({match, _}, re:run(Message, "not iterable")).

list_stops_at_its_deadline(_) ->
    {error, timeout} = py:stream(stream_fixture, endless, [], #{}, 1000),
    {error, timeout} = py:stream(stream_fixture, aendless, [], #{}, 1000),
    wait_seen(<<"closed">>),
    wait_seen(<<"aclosed">>),
    {ok, [0]} = py:stream(stream_fixture, acount, [1]).

%% ---- messages ----

messages_of_a_generator(_) ->
    [0, 1, 2, done] = items(start(count, [3])),
    [<<"closed">>] = seen(),
    ?assertEqual(lists:seq(0, 9999) ++ [done], items(start(count, [10000]))),
    [2, 1, 0, done] = items(start('Iterator', [])).

messages_of_an_async_generator(_) ->
    [0, 1, 2, done] = items(start(acount, [3])),
    [<<"aclosed">>] = seen(),
    ?assertEqual(lists:seq(0, 9999) ++ [done], items(start(acount, [10000]))),
    [2, 1, 0, done] = items(start('AsyncIterator', [])).

nothing_at_all(_) ->
    [done] = items(start(count, [0])),
    [done] = items(start(acount, [0])).

error_after_items(_) ->
    [0, 1, {error, {'ValueError', #{traceback := [#{function := <<"broken">>}]}}}] = items(start(broken, [2])).

error_of_the_call(_) ->
    [{error, {'LookupError', _}}] = items(start(gone, [])),
    [{error, {'AttributeError', _}}] = items(start(no_such_function, [])),
    [{error, {'TypeError', _}}] = items(start(clear, [])).

item_without_a_term(_) ->
    {ok, Ref} = py:stream_start(builtins, map, [{bytes, <<"x">>}, 1]),
    [{error, {'TypeError', _}}] = items(Ref),
    {ok, Other} = py:stream_start(builtins, list, [[<<"a">>]]),
    [<<"a">>, done] = items(Other).

%% ---- credit ----

%% Nothing beyond the credit: what comes next is the answer to the ack.
credit_bounds_what_is_sent(_) -> bounded(endless).

credit_of_an_async_generator(_) -> bounded(aendless).

bounded(Function) ->
    Ref = start(Function, [], #{credit => 3}),
    [0, 1, 2] = take(Ref, 3),
    %% Another stream on the same thread gets through meanwhile, so it had its chance to send more.
    [0, done] = items(start(count, [1])),
    [0, done] = items(start(acount, [1])),
    py_test_lib:no_messages(),
    ok = py:stream_ack(Ref, 2),
    [3, 4] = take(Ref, 2),
    ok = py:stream_ack(Ref, 1),
    ok = py:stream_ack(Ref, 1),
    [5, 6] = take(Ref, 2),
    ok = py:stream_cancel(Ref).

credit_of_nothing_sends_nothing(_) ->
    Ref = start(count, [2], #{credit => 0}),
    [0, done] = items(start(count, [1])),
    py_test_lib:no_messages(),
    ok = py:stream_ack(Ref, infinity),
    [0, 1, done] = items(Ref).

ack_of_what_is_done(_) ->
    Ref = start(count, [1]),
    [0, done] = items(Ref),
    py_test_lib:eventually(fun() -> {error, done} = py:stream_ack(Ref, 1) end),
    {error, done} = py:stream_ack(make_ref(), 1),
    ?assertError(badarg, py:stream_ack(self(), 1)),
    ?assertError(function_clause, py:stream_ack(Ref, 0)).

%% ---- ends ----

cancel_closes_the_generator(_) ->
    Ref = start(endless, []),
    [0, 1, 2] = take(Ref, 3),
    ok = py:stream_cancel(Ref),
    wait_seen(<<"closed">>).

cancel_of_an_async_generator(_) ->
    Ref = start(aendless, []),
    [0, 1, 2] = take(Ref, 3),
    ok = py:stream_cancel(Ref),
    wait_seen(<<"aclosed">>).

cancel_of_a_parked_stream(_) ->
    [begin
        Ref = start(Function, [], #{credit => 1}),
        [0] = take(Ref, 1),
        ok = py:stream_cancel(Ref),
        wait_seen(Closed)
     end || {Function, Closed} <- [{endless, <<"closed">>}, {aendless, <<"aclosed">>}]].

cancel_of_a_blocked_generator(_) ->
    Ref = start(spin, []),
    [1] = take(Ref, 1),
    wait_seen(<<"spins">>),
    ok = py:stream_cancel(Ref),
    [0, done] = items(start(count, [1])).

cancel_by_another_process(_) ->
    Ref = start(endless, [], #{credit => 1}),
    [0] = take(Ref, 1),
    {_, Monitor} = spawn_monitor(fun() -> ok = py:stream_cancel(Ref) end),
    receive {'DOWN', Monitor, _, _, Why} -> normal = Why end,
    [{error, cancelled}] = items(Ref),
    [<<"closed">>] = seen().

cancel_twice(_) ->
    Ref = start(endless, [], #{credit => 1}),
    ok = py:stream_cancel(Ref),
    ok = py:stream_cancel(Ref),
    Done = start(count, [1]),
    [0, done] = items(Done),
    ok = py:stream_cancel(Done).

cancel_takes_the_messages(_) ->
    [begin
        Ref = start(Function, []),
        [0] = take(Ref, 1),
        ok = py:stream_cancel(Ref),
        py_test_lib:no_messages()
     end || _ <- lists:seq(1, 50), Function <- [endless, aendless]].

owners_death_closes(_) ->
    [begin
        {Pid, Monitor} = spawn_monitor(fun() ->
            Ref = start(Function, []),
            take(Ref, 10)
        end),
        receive {'DOWN', Monitor, _, Pid, Why} -> normal = Why end,
        wait_seen(Closed)
     end || {Function, Closed} <- [{endless, <<"closed">>}, {aendless, <<"aclosed">>}]].

owners_death_while_parked(_) ->
    [begin
        {Pid, Monitor} = spawn_monitor(fun() ->
            Ref = start(Function, [], #{credit => 2}),
            take(Ref, 2)
        end),
        receive {'DOWN', Monitor, _, Pid, Why} -> normal = Why end,
        wait_seen(Closed)
     end || {Function, Closed} <- [{endless, <<"closed">>}, {aendless, <<"aclosed">>}]].

exception_in_finally(_) ->
    Ref = start(bad_finally, [], #{credit => 1}),
    [1] = take(Ref, 1),
    ok = py:stream_cancel(Ref),
    wait_seen(<<"closed">>),
    [1, 2, {error, {'KeyError', _}}] = items(start(bad_finally, [])).

generator_stops_itself(_) ->
    [1, {error, {'KeyboardInterrupt', _}}] = items(start(stops, [])),
    [0, done] = items(start(count, [1])).

%% ---- beside others ----

calls_go_on_beside_an_endless_stream(_) ->
    Context = py_test_lib:context(#{threads => 1}),
    {Pid, Monitor} = eater(fun() -> py:stream_start(Context, stream_fixture, endless, []) end),
    [{ok, 4.0} = py:call(Context, math, sqrt, [16]) || _ <- lists:seq(1, 100)],
    exit(Pid, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    wait_seen(<<"closed">>),
    py_test_lib:drop(Context).

coroutines_go_on_beside_an_endless_async_stream(_) ->
    {Pid, Monitor} = eater(fun() -> {ok, start(aendless, [])} end),
    [{ok, I} = py:async_await(py:async_call(stream_fixture, noop, [I])) || I <- lists:seq(1, 100)],
    exit(Pid, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    wait_seen(<<"aclosed">>).

%% A process that takes all of an endless stream, and has begun to.
eater(Start) ->
    Self = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        {ok, Ref} = Start(),
        receive {py_stream, Ref, {data, _}} -> Self ! {begun, self()} end,
        eat(Ref)
    end),
    receive {begun, Pid} -> {Pid, Monitor} end.

eat(Ref) ->
    receive {py_stream, Ref, {data, _}} -> eat(Ref) end.

async_streams_share_the_loop(_) ->
    {ok, [Name, Name]} = py:stream(stream_fixture, thread_name, []),
    [Name, Name, done] = items(start(thread_name, [])).

many_streams(_) ->
    Results = py_test_lib:parallel(100, fun(I) ->
        {items(start(count, [I], #{})), items(start(acount, [I]))}
    end),
    lists:foldl(
        fun(R, I) ->
            Expected = lists:seq(0, I - 1) ++ [done],
            ?assertEqual({Expected, Expected}, R),
            I + 1
        end, 1, Results).

context_stop_ends_streams(_) ->
    Context = py_test_lib:context(#{}),
    {ok, Sync} = py:stream_start(Context, stream_fixture, endless, []),
    {ok, Async} = py:stream_start(Context, stream_fixture, aendless, []),
    _ = take(Sync, 10),
    _ = take(Async, 10),
    ok = py_context:stop(Context),
    {error, stopped} = lists:last(items(Sync)),
    {error, stopped} = lists:last(items(Async)),
    wait_seen(<<"closed">>),
    wait_seen(<<"aclosed">>).

parked_stream_of_a_stopped_context(_) ->
    Context = py_test_lib:context(#{}),
    {ok, Ref} = py:stream_start(Context, stream_fixture, endless, [], #{credit => 1}),
    [0] = take(Ref, 1),
    [0, done] = items(start(count, [1])),
    ok = py_context:stop(Context),
    [{error, stopped}] = items(Ref),
    wait_seen(<<"closed">>),
    {error, done} = py:stream_ack(Ref, 1).

parked_streams_of_a_killed_context(_) ->
    Context = py_test_lib:context(#{}),
    Refs = [
        begin
            {ok, Ref} = py:stream_start(Context, stream_fixture, F, [], #{credit => 1}),
            [0] = take(Ref, 1),
            Ref
        end
     || F <- [endless, aendless], _ <- lists:seq(1, 20)
    ],
    exit(Context, kill),
    [[{error, stopped}] = items(Ref) || Ref <- Refs],
    py_test_lib:eventually(fun() ->
        Seen = seen(),
        {20, 20} = {length([S || <<"closed">> = S <- Seen]), length([S || <<"aclosed">> = S <- Seen])}
    end).

forgotten_stream_is_closed(_) ->
    ok = forget(),
    py_test_lib:eventually(fun() ->
        true = erlang:garbage_collect(),
        [<<"closed">>] = seen()
    end).

forget() ->
    Ref = start(endless, [], #{credit => 1}),
    [0] = take(Ref, 1),
    ok.

bad_options(_) ->
    ?assertError({bad_option, {credit, -1}}, py:stream_start(stream_fixture, count, [1], #{credit => -1})),
    ?assertError({bad_option, {nonsense, 1}}, py:stream_start(stream_fixture, count, [1], #{nonsense => 1})).

no_context(_) ->
    Context = py_test_lib:context(#{}),
    ok = py_context:stop(Context),
    {error, noproc} = py:stream(Context, builtins, range, [3]),
    {error, noproc} = py:stream_start(Context, builtins, range, [3]).
