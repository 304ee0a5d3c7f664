%% What py_unified_bench measures of ours: calls, async calls, gathers, payloads, streams, the loop of both backends.
-module(py_bench_cases).

-export([calls/0]).
-export([payloads/0]).
-export([async/0]).
-export([streams/0]).
-export([loops/0]).
-export([sync_call/1]).
-export([concurrent/2]).
-export([async_call/1]).
-export([gather/2]).

-spec calls() -> [py_bench_lib:bench()].
calls() ->
    [
        #{name => <<"call_1">>, run => fun() -> sync_call(100000) end},
        #{name => <<"call_1_identity">>, run => fun() -> identity(100000) end},
        #{name => <<"call_1_latency">>, run => fun() -> py_bench_lib:latency_stats(py_bench_lib:latencies(50000, fun sqrt/0)) end}
    ] ++
        [#{name => name("call_", C), run => fun() -> concurrent(200000, C) end} || C <- [10, 100, 1000]] ++
        [
            #{name => <<"call_100_beside_sleep">>, run => fun() -> beside_sleep(200000) end},
            #{name => <<"cast">>, run => fun() -> casts(100000) end},
            #{name => <<"eval">>, run => fun() -> evals(20000) end}
        ].

%% Seconds of one py:call(math, sqrt, [16.0]) of one caller.
-spec sync_call(pos_integer()) -> float().
sync_call(N) ->
    py_bench_lib:per_op(N, fun() -> py_bench_lib:repeat(N, fun sqrt/0) end).

%% Seconds of a call, N calls by Concurrency callers, and how the slowest caller was served: its time by the mean.
-spec concurrent(pos_integer(), pos_integer()) -> #{time := float(), unfairness := float()}.
concurrent(N, Concurrency) ->
    Each = N div Concurrency,
    {Seconds, Times} = py_bench_lib:in_parallel(Concurrency, fun() -> py_bench_lib:repeat(Each, fun sqrt/0) end),
    #{time => Seconds / (Each * Concurrency), unfairness => lists:max(Times) / (lists:sum(Times) / Concurrency)}.

-spec sqrt() -> {ok, float()}.
sqrt() ->
    {ok, 4.0} = py:call(math, sqrt, [16.0]).

-spec identity(pos_integer()) -> float().
identity(N) ->
    ok = py:exec(<<"def bench_identity(x): return x">>),
    Call = fun() -> {ok, 7} = py:call('__main__', bench_identity, [7]) end,
    py_bench_lib:per_op(N, fun() -> py_bench_lib:repeat(N, Call) end).

%% While another call of the same context sleeps.
-spec beside_sleep(pos_integer()) -> float().
beside_sleep(N) ->
    Sleeper = py:spawn_call(time, sleep, [5]),
    #{time := Seconds} = concurrent(N, 100),
    {error, timeout} = py:await(Sleeper, 0),
    Seconds.

-spec casts(pos_integer()) -> float().
casts(N) ->
    py_bench_lib:per_op(N, fun() ->
        py_bench_lib:repeat(N, fun() -> ok = py:cast(math, sqrt, [16.0]) end),
        sqrt()
    end).

-spec evals(pos_integer()) -> float().
evals(N) ->
    py_bench_lib:per_op(N, fun() -> py_bench_lib:repeat(N, fun() -> {ok, 3} = py:eval(<<"1 + 2">>) end) end).

%% There and back through a Python identity.
-spec payloads() -> [py_bench_lib:bench()].
payloads() ->
    Maps = [maps:from_list([{list_to_atom("key" ++ integer_to_list(K)), I * K} || K <- lists:seq(1, 5)]) || I <- lists:seq(1, 100)],
    [
        payload(<<"binary_1k">>, binary:copy(<<"x">>, 1024), 20000),
        payload(<<"binary_1m">>, binary:copy(<<"x">>, 1 bsl 20), 2000),
        payload(<<"ints_1000">>, lists:seq(1, 1000), 3000),
        payload(<<"floats_1000">>, [I / 3 || I <- lists:seq(1, 1000)], 3000),
        payload(<<"map_100">>, maps:from_list([{list_to_atom("key" ++ integer_to_list(I)), I} || I <- lists:seq(1, 100)]), 5000),
        payload(<<"maps_100x5">>, Maps, 2000),
        payload(<<"nested_lists">>, lists:foldl(fun(I, Acc) -> [I, Acc] end, [], lists:seq(1, 100)), 5000)
    ].

-spec payload(binary(), term(), pos_integer()) -> py_bench_lib:bench().
payload(Name, Term, N) ->
    Run = fun() ->
        ok = py:exec(<<"def bench_identity(x): return x">>),
        Call = fun() -> {ok, _} = py:call('__main__', bench_identity, [Term]) end,
        {ok, Term} = Call(),
        py_bench_lib:per_op(N, fun() -> py_bench_lib:repeat(N, Call) end)
    end,
    #{name => <<"payload_", Name/binary>>, run => Run}.

-spec async() -> [py_bench_lib:bench()].
async() ->
    [
        #{name => <<"async_call_1">>, run => fun() -> async_call(50000) end},
        #{name => <<"async_call_1_latency">>, run => fun async_latency/0},
        #{name => <<"async_call_100">>, run => fun() -> async_concurrent(100000, 100) end}
    ] ++
        [#{name => name("async_gather_", S), run => fun() -> gather(max(1, 50000 div S), S) end} || S <- [10, 50, 1000]] ++
        [
            #{name => <<"async_gather_1000_sleep0">>, run => fun() -> gather(50, 1000, {'__main__', bench_sleep0, [7]}) end},
            #{name => <<"async_gather_1000_plain_function">>, run => fun() -> gather(50, 1000, {math, sqrt, [16.0]}, 4.0) end}
        ].

-spec coroutines() -> ok.
coroutines() ->
    ok = py:exec(<<
        "import asyncio\n"
        "async def bench_noop(x): return x\n"
        "async def bench_sleep0(x):\n"
        "    await asyncio.sleep(0)\n"
        "    return x\n"
    >>).

%% Seconds of one async_call and its await.
-spec async_call(pos_integer()) -> float().
async_call(N) ->
    coroutines(),
    py_bench_lib:per_op(N, fun() -> py_bench_lib:repeat(N, fun noop/0) end).

-spec noop() -> {ok, 7}.
noop() ->
    {ok, 7} = py:async_await(py:async_call('__main__', bench_noop, [7])).

-spec async_latency() -> map().
async_latency() ->
    coroutines(),
    py_bench_lib:latency_stats(py_bench_lib:latencies(30000, fun noop/0)).

-spec async_concurrent(pos_integer(), pos_integer()) -> float().
async_concurrent(N, Concurrency) ->
    coroutines(),
    Each = N div Concurrency,
    {Seconds, _} = py_bench_lib:in_parallel(Concurrency, fun() -> py_bench_lib:repeat(Each, fun noop/0) end),
    Seconds / N.

%% Seconds of one coroutine of a batch.
-spec gather(pos_integer(), pos_integer()) -> float().
gather(Batches, Size) ->
    gather(Batches, Size, {'__main__', bench_noop, [7]}).

-spec gather(pos_integer(), pos_integer(), tuple()) -> float().
gather(Batches, Size, Spec) ->
    gather(Batches, Size, Spec, 7).

-spec gather(pos_integer(), pos_integer(), tuple(), term()) -> float().
gather(Batches, Size, Spec, Answer) ->
    coroutines(),
    Specs = lists:duplicate(Size, Spec),
    Answers = lists:duplicate(Size, Answer),
    Batch = fun() -> {ok, Answers} = py:async_gather(Specs) end,
    py_bench_lib:per_op(Batches * Size, fun() -> py_bench_lib:repeat(Batches, Batch) end).

-spec streams() -> [py_bench_lib:bench()].
streams() ->
    [
        #{name => <<"stream_item_sync">>, run => fun() -> stream(bench_range, 100000) end},
        #{name => <<"stream_item_async">>, run => fun() -> stream(bench_arange, 100000) end},
        #{name => <<"stream_collect_item">>, run => fun() -> collect(100000) end}
    ].

-spec generators() -> ok.
generators() ->
    ok = py:exec(<<
        "def bench_range(n): yield from range(n)\n"
        "async def bench_arange(n):\n"
        "    for i in range(n): yield i\n"
    >>).

-spec stream(atom(), pos_integer()) -> float().
stream(Generator, N) ->
    generators(),
    py_bench_lib:per_op(N, fun() ->
        {ok, Ref} = py:stream_start('__main__', Generator, [N], #{credit => infinity}),
        N = receive_all(Ref, 0)
    end).

-spec receive_all(reference(), non_neg_integer()) -> non_neg_integer().
receive_all(Ref, Next) ->
    receive
        {py_stream, Ref, {data, Next}} -> receive_all(Ref, Next + 1);
        {py_stream, Ref, done} -> Next
    end.

-spec collect(pos_integer()) -> float().
collect(N) ->
    generators(),
    py_bench_lib:per_op(N, fun() ->
        {ok, Items} = py:stream('__main__', bench_range, [N]),
        N = length(Items)
    end).

%% Timers and file descriptors of a loop with each backend: Python times itself.
-spec loops() -> [py_bench_lib:bench()].
loops() ->
    [
        #{
            name => <<What/binary, $_, Backend/binary>>,
            run => fun() ->
                ok = py:exec(loop_source()),
                {ok, Seconds} = py:call('__main__', bench_on, [Backend, What, N], #{}, 120000),
                Seconds
            end
        }
     || {What, N} <- [{<<"timer">>, 20000}, {<<"fd_ping_pong">>, 5000}], Backend <- backends()
    ].

-spec backends() -> [binary()].
backends() ->
    [<<"native">>, <<"beam">>].

-spec loop_source() -> binary().
loop_source() ->
    <<
        "import asyncio, socket, time\n"
        "import erlang\n"
        "def bench_on(backend, what, n):\n"
        "    bench = {'timer': bench_timer, 'fd_ping_pong': bench_ping}[what]\n"
        "    with asyncio.Runner(loop_factory=lambda: erlang.new_event_loop(backend=backend)) as runner:\n"
        "        return runner.run(bench(n))\n"
        "async def bench_timer(n):\n"
        "    loop = asyncio.get_running_loop()\n"
        "    done = loop.create_future()\n"
        "    left = n\n"
        "    def fired():\n"
        "        nonlocal left\n"
        "        left -= 1\n"
        "        if not left: done.set_result(None)\n"
        "    start = time.perf_counter()\n"
        "    for i in range(n): loop.call_later(0.001, fired)\n"
        "    await done\n"
        "    return (time.perf_counter() - start) / n\n"
        "async def bench_ping(n):\n"
        "    loop = asyncio.get_running_loop()\n"
        "    a, b = socket.socketpair()\n"
        "    a.setblocking(False); b.setblocking(False)\n"
        "    done = loop.create_future()\n"
        "    left = n\n"
        "    def pong():\n"
        "        b.send(b.recv(1))\n"
        "    def ping():\n"
        "        nonlocal left\n"
        "        a.recv(1)\n"
        "        left -= 1\n"
        "        if left: a.send(b'x')\n"
        "        else: done.set_result(None)\n"
        "    loop.add_reader(a, ping); loop.add_reader(b, pong)\n"
        "    start = time.perf_counter()\n"
        "    a.send(b'x')\n"
        "    await done\n"
        "    took = time.perf_counter() - start\n"
        "    loop.remove_reader(a); loop.remove_reader(b)\n"
        "    a.close(); b.close()\n"
        "    return took / n\n"
    >>.

-spec name(string(), pos_integer()) -> binary().
name(Prefix, N) ->
    list_to_binary(Prefix ++ integer_to_list(N)).
