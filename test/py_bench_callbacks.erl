%% Python to Erlang, for py_unified_bench: callbacks, messages, channels, shared state. The rates are of Python's own
%% clock, or Erlang's where Erlang receives.
-module(py_bench_callbacks).

-export([benches/0]).
-export([add/2]).
-export([sink/1]).

-spec benches() -> [py_bench_lib:bench()].
benches() ->
    [#{name => Name, run => fun() -> in_context(Fun) end} || {Name, Fun} <- rates()].

%% Seconds of one operation, in a context made for it.
-spec in_context(fun((pid()) -> float())) -> float().
in_context(Fun) ->
    ok = py:register_function(bench_add, ?MODULE, add),
    {ok, C} = py_context:start(#{threads => 8}),
    ok = py:exec(C, source()),
    Rate = Fun(C),
    ok = py_context:stop(C),
    ok = py:unregister_function(bench_add),
    1 / Rate.

-spec add(integer(), integer()) -> integer().
add(A, B) -> A + B.

-spec rates() -> [{binary(), fun((pid()) -> float())}].
rates() ->
    [
        {<<"callback">>, fun(C) -> rate(C, loop, [20000]) end},
        {<<"callback_100_threads">>, fun(C) -> rate(C, threads, [100, 200]) end},
        {<<"callback_coroutine">>, fun(C) -> rate(C, coroutines, [10000, 1]) end},
        {<<"callback_1000_coroutines">>, fun(C) -> rate(C, coroutines, [10000, 1000]) end},
        {<<"callback_nested">>, fun(C) -> rate(C, nested, [C, 5000]) end},
        {<<"send">>, fun(C) -> rate(C, send, [spawn_link(?MODULE, sink, [200000]), 200000]) end},
        {<<"state_get">>, fun(C) -> rate(C, state, [20000]) end},
        {<<"channel_to_python">>, fun to_python/1},
        {<<"channel_to_erlang">>, fun to_erlang/1},
        {<<"channel_to_coroutine">>, fun to_coroutine/1}
    ].

-spec source() -> binary().
source() ->
    <<
        "import asyncio, threading, time\n"
        "import erlang\n"
        "def timed(n, start):\n"
        "    return n / (time.perf_counter() - start)\n"
        "def loop(n):\n"
        "    call, start = erlang.call, time.perf_counter()\n"
        "    for i in range(n): call('bench_add', i, 1)\n"
        "    return timed(n, start)\n"
        "def threads(n, each):\n"
        "    def work():\n"
        "        for i in range(each): erlang.call('bench_add', i, 1)\n"
        "    threads = [threading.Thread(target=work) for _ in range(n)]\n"
        "    start = time.perf_counter()\n"
        "    for t in threads: t.start()\n"
        "    for t in threads: t.join()\n"
        "    return timed(n * each, start)\n"
        "async def many(n, at_once):\n"
        "    start = time.perf_counter()\n"
        "    for _ in range(n // at_once):\n"
        "        await asyncio.gather(*(erlang.async_call('bench_add', i, 1) for i in range(at_once)))\n"
        "    return timed(n, start)\n"
        "def coroutines(n, at_once):\n"
        "    return erlang.run(many(n, at_once))\n"
        "def ident(x): return x\n"
        "def nested(ctx, n):\n"
        "    ask, start = erlang.call, time.perf_counter()\n"
        "    for i in range(n): ask('bench_nested', ctx, i)\n"
        "    return timed(n, start)\n"
        "def send(pid, n):\n"
        "    send, start = erlang.send, time.perf_counter()\n"
        "    for i in range(n): send(pid, i)\n"
        "    return timed(n, start)\n"
        "def state(n):\n"
        "    start = time.perf_counter()\n"
        "    for i in range(n): erlang.state_get('bench')\n"
        "    return timed(n, start)\n"
        "def consume(ch):\n"
        "    n, start = 0, time.perf_counter()\n"
        "    for _ in ch: n += 1\n"
        "    return timed(n, start)\n"
        "async def aconsume(ch):\n"
        "    n, start = 0, time.perf_counter()\n"
        "    async for _ in ch: n += 1\n"
        "    return timed(n, start)\n"
        "def arun(ch):\n"
        "    return erlang.run(aconsume(ch))\n"
        "def produce(ch, n):\n"
        "    with ch:\n"
        "        for i in range(n): ch.send(i)\n"
    >>.

-spec rate(pid(), atom(), [term()]) -> float().
rate(C, Function, Args) ->
    ok = py:register_function(bench_nested, fun(Context, X) ->
        {ok, X} = py:call(Context, '__main__', ident, [X]),
        X
    end),
    {ok, Rate} = py:call(C, '__main__', Function, Args, #{}, infinity),
    Rate.

-spec sink(non_neg_integer()) -> ok.
sink(0) ->
    ok;
sink(N) ->
    receive
        _ -> sink(N - 1)
    end.

-spec to_python(pid()) -> float().
to_python(C) ->
    feed(C, consume).

-spec to_coroutine(pid()) -> float().
to_coroutine(C) ->
    feed(C, arun).

-spec feed(pid(), atom()) -> float().
feed(C, Function) ->
    Channel = py_channel:new(),
    Ref = py:spawn_call(C, '__main__', Function, [Channel]),
    _ = [ok = py_channel:send(Channel, N) || N <- lists:seq(1, 200000)],
    ok = py_channel:close(Channel),
    {ok, Rate} = py:await(Ref, infinity),
    Rate.

-spec to_erlang(pid()) -> float().
to_erlang(C) ->
    Channel = py_channel:new(),
    N = 200000,
    {Us, N} = timer:tc(fun() ->
        Ref = py:spawn_call(C, '__main__', produce, [Channel, N]),
        Count = count(Channel, 0),
        {ok, none} = py:await(Ref, infinity),
        Count
    end),
    N * 1.0e6 / Us.

-spec count(py_channel:channel(), non_neg_integer()) -> non_neg_integer().
count(Channel, N) ->
    case py_channel:recv_many(Channel, 100) of
        {ok, Terms} -> count(Channel, N + length(Terms));
        closed -> N
    end.
