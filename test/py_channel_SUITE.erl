%% Channels: order, bounds and suspended producers on both sides, ends, coroutines, and a gigabyte in bounded memory.
-module(py_channel_SUITE).

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 3}}].

all() ->
    [
        to_python_in_order,
        to_erlang_in_order,
        both_directions_at_once,
        producer_in_erlang_is_suspended,
        producer_in_python_is_suspended,
        coroutine_that_produces_is_suspended,
        bounded_by_bytes,
        coroutines_receive,
        coroutine_that_is_cancelled_loses_nothing,
        many_producers_and_consumers,
        timeouts,
        no_waiter_is_left_behind,
        closed_by_erlang,
        closed_by_python,
        closed_while_the_producer_is_suspended,
        ends_with_its_owner,
        interrupted_while_waiting,
        made_by_python,
        value_that_cannot_cross,
        gigabyte_to_python,
        gigabyte_to_erlang
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_testcase(_Case, Config) ->
    C = py_test_lib:context(#{threads => 4}),
    ok = py:exec(C, <<
        "import asyncio, hashlib, threading, time\n"
        "import erlang\n"
        "def collect(ch):\n"
        "    return list(ch)\n"
        "def produce(ch, items):\n"
        "    with ch:\n"
        "        for item in items: ch.send(item)\n"
        "def count_to(ch, n, tester):\n"
        "    for i in range(n):\n"
        "        ch.send(i)\n"
        "        erlang.send(tester, ('sent', i))\n"
        "    ch.close()\n"
        "async def acollect(ch):\n"
        "    return [item async for item in ch]\n"
        "async def acount_to(ch, n, tester):\n"
        "    for i in range(n):\n"
        "        await ch.async_send(i)\n"
        "        erlang.send(tester, ('sent', i))\n"
        "    ch.close()\n"
        "def stock(coroutine, *args):\n"
        "    return asyncio.run(globals()[coroutine](*args))\n"
        "def ours(coroutine, *args):\n"
        "    return erlang.run(globals()[coroutine](*args))\n"
        "def echo(ch):\n"
        "    with ch:\n"
        "        for item in ch: ch.send(item)\n"
        "def recv(ch, timeout):\n"
        "    return ch.recv(timeout)\n"
        "def send(ch, value, timeout):\n"
        "    return ch.send(value, timeout)\n"
    >>),
    [{context, C} | Config].

end_per_testcase(_Case, Config) ->
    py_context:stop(proplists:get_value(context, Config)),
    py_test_lib:eventually(fun() ->
        {ok, _} = py:gc(),
        _ = [erlang:garbage_collect(P) || P <- processes()],
        #{channels := 0, callbacks := 0} = py_nif:counters()
    end),
    py_test_lib:no_messages().

start(Config, Function, Args) -> py:spawn_call(proplists:get_value(context, Config), '__main__', Function, Args).

run(Config, Function, Args) -> py:call(proplists:get_value(context, Config), '__main__', Function, Args).

drain(Channel) ->
    case py_channel:recv_many(Channel, 100) of
        {ok, Terms} -> Terms ++ drain(Channel);
        closed -> []
    end.

to_python_in_order(Config) ->
    Ch = py_channel:new(#{capacity => 16}),
    Ref = start(Config, collect, [Ch]),
    Numbers = lists:seq(1, 20000),
    _ = [ok = py_channel:send(Ch, N) || N <- Numbers],
    ok = py_channel:close(Ch),
    {ok, Numbers} = py:await(Ref).

to_erlang_in_order(Config) ->
    Ch = py_channel:new(#{capacity => 16}),
    Numbers = lists:seq(1, 20000),
    Ref = start(Config, produce, [Ch, Numbers]),
    Numbers = drain(Ch),
    {ok, none} = py:await(Ref).

both_directions_at_once(Config) ->
    Ch = py_channel:new(#{capacity => 3}),
    Ref = start(Config, echo, [Ch]),
    Terms = [{I, <<"text">>, #{<<"k">> => [I, 1.5, self()]}} || I <- lists:seq(1, 2000)],
    spawn_link(fun() ->
        _ = [ok = py_channel:send(Ch, T) || T <- Terms],
        py_channel:close(Ch)
    end),
    Terms = drain(Ch),
    {ok, none} = py:await(Ref).

%% The producer's process stands in a receive until half of the queue was taken.
producer_in_erlang_is_suspended(Config) ->
    Ch = py_channel:new(#{capacity => 4}),
    Tester = self(),
    Producer = spawn_link(fun() ->
        _ = [begin ok = py_channel:send(Ch, I), Tester ! {sent, I} end || I <- lists:seq(1, 6)],
        py_channel:close(Ch)
    end),
    _ = [receive {sent, I} -> ok end || I <- [1, 2, 3, 4]],
    py_test_lib:eventually(fun() -> {status, waiting} = process_info(Producer, status) end),
    {ok, 1} = run(Config, recv, [Ch, 5]),
    receive {sent, _} -> error(not_suspended) after 50 -> ok end,
    {ok, 2} = run(Config, recv, [Ch, 5]),
    _ = [receive {sent, I} -> ok end || I <- [5, 6]],
    {ok, [3, 4, 5, 6]} = run(Config, collect, [Ch]).

producer_in_python_is_suspended(Config) ->
    Ch = py_channel:new(#{capacity => 4}),
    suspended(start(Config, count_to, [Ch, 6, self()]), Ch).

coroutine_that_produces_is_suspended(Config) ->
    _ = [
        begin
            Ch = py_channel:new(#{capacity => 4}),
            suspended(start(Config, F, [acount_to, Ch, 6, self()]), Ch)
        end
     || F <- [stock, ours]
    ],
    ok.

suspended(Ref, Ch) ->
    _ = [receive {<<"sent">>, I} -> ok end || I <- [0, 1, 2, 3]],
    receive {<<"sent">>, _} -> error(not_suspended) after 50 -> ok end,
    {ok, 0} = py_channel:recv(Ch),
    receive {<<"sent">>, _} -> error(not_suspended) after 50 -> ok end,
    {ok, 1} = py_channel:recv(Ch),
    _ = [receive {<<"sent">>, I} -> ok end || I <- [4, 5]],
    [2, 3, 4, 5] = drain(Ch),
    {ok, none} = py:await(Ref).

bounded_by_bytes(_Config) ->
    Ch = py_channel:new(#{max_bytes => 1000000}),
    Binary = binary:copy(<<"x">>, 400000),
    _ = [ok = py_channel:send(Ch, {I, [Binary]}) || I <- [1, 2, 3]],
    {error, timeout} = py_channel:send(Ch, 4, 0),
    #{to_python := #{length := 3, bytes := Bytes, closed := false}} = py_channel:info(Ch),
    true = Bytes >= 1200000,
    One = py_channel:new(#{max_bytes => 10}),
    ok = py_channel:send(One, Binary),
    {error, timeout} = py_channel:send(One, small, 0).

coroutines_receive(Config) ->
    _ = [
        begin
            Ch = py_channel:new(#{capacity => 5}),
            Ref = start(Config, F, [acollect, Ch]),
            Numbers = lists:seq(1, 3000),
            _ = [ok = py_channel:send(Ch, N) || N <- Numbers],
            ok = py_channel:close(Ch),
            {ok, Numbers} = py:await(Ref)
        end
     || F <- [stock, ours]
    ],
    ok.

coroutine_that_is_cancelled_loses_nothing(Config) ->
    Ch = py_channel:new(),
    ok = py:exec(proplists:get_value(context, Config), <<
        "async def cancelled(ch, tester):\n"
        "    for _ in range(100):\n"
        "        try:\n"
        "            async with asyncio.timeout(0.001):\n"
        "                await ch.async_recv()\n"
        "                return 'early'\n"
        "        except TimeoutError:\n"
        "            pass\n"
        "    erlang.send(tester, 'now')\n"
        "    return [item async for item in ch]\n"
    >>),
    Ref = start(Config, ours, [cancelled, Ch, self()]),
    receive <<"now">> -> ok end,
    _ = [ok = py_channel:send(Ch, I) || I <- [1, 2, 3]],
    ok = py_channel:close(Ch),
    {ok, [1, 2, 3]} = py:await(Ref).

many_producers_and_consumers(Config) ->
    Ch = py_channel:new(#{capacity => 7}),
    ok = py:exec(proplists:get_value(context, Config), <<
        "def crowd(ch, n):\n"
        "    def work():\n"
        "        for item in ch: ch.send(item)\n"
        "    threads = [threading.Thread(target=work) for _ in range(n)]\n"
        "    for t in threads: t.start()\n"
        "    for t in threads: t.join()\n"
        "    ch.close()\n"
    >>),
    Ref = start(Config, crowd, [Ch, 8]),
    Produce = fun(P) -> fun() -> [ok = py_channel:send(Ch, {P, I}) || I <- lists:seq(1, 500)] end end,
    Producers = [spawn_monitor(Produce(P)) || P <- lists:seq(1, 8)],
    Tester = self(),
    Consumers = [spawn_link(fun() -> Tester ! {self(), drain(Ch)} end) || _ <- lists:seq(1, 4)],
    _ = [receive {'DOWN', M, process, P, normal} -> ok end || {P, M} <- Producers],
    ok = py_channel:close(Ch),
    All = lists:append([receive {C, Terms} -> Terms end || C <- Consumers]),
    Expected = [{P, I} || P <- lists:seq(1, 8), I <- lists:seq(1, 500)],
    Expected = lists:sort(All),
    {ok, none} = py:await(Ref).

timeouts(Config) ->
    Ch = py_channel:new(#{capacity => 1}),
    {error, timeout} = py_channel:recv(Ch, 0),
    {error, timeout} = py_channel:recv(Ch, 20),
    {error, {'TimeoutError', _}} = run(Config, recv, [Ch, 0]),
    {error, {'TimeoutError', _}} = run(Config, recv, [Ch, 0.02]),
    {ok, none} = run(Config, send, [Ch, a, 0]),
    {error, {'TimeoutError', _}} = run(Config, send, [Ch, b, 0.02]),
    ok = py_channel:send(Ch, 1, 0),
    {error, timeout} = py_channel:send(Ch, 2, 20),
    {ok, a} = py_channel:recv(Ch, 1000),
    {ok, 1} = run(Config, recv, [Ch, 1]).

%% Who gives up waiting, or dies, leaves nothing in the channel.
no_waiter_is_left_behind(Config) ->
    Ch = py_channel:new(),
    ok = py:exec(proplists:get_value(context, Config), <<
        "def impatient(ch, n):\n"
        "    for _ in range(n):\n"
        "        try: ch.recv(0.00001)\n"
        "        except TimeoutError: pass\n"
    >>),
    {ok, none} = run(Config, impatient, [Ch, 500]),
    _ = [{error, timeout} = py_channel:recv(Ch, 0) || _ <- lists:seq(1, 500)],
    Dead = [spawn_monitor(fun() -> py_channel:recv(Ch) end) || _ <- lists:seq(1, 200)],
    _ = [exit(P, kill) || {P, _} <- Dead],
    _ = [receive {'DOWN', M, process, P, killed} -> ok end || {P, M} <- Dead],
    {ok, none} = run(Config, send, [Ch, here, 1]),
    {ok, here} = py_channel:recv(Ch, 1000).

closed_by_erlang(Config) ->
    Ch = py_channel:new(),
    ok = py_channel:send(Ch, 1),
    ok = py_channel:close(Ch),
    {error, closed} = py_channel:send(Ch, 2),
    {ok, 1} = run(Config, recv, [Ch, 1]),
    {error, {'EOFError', _}} = run(Config, recv, [Ch, 1]),
    {ok, []} = run(Config, collect, [Ch]),
    {ok, []} = run(Config, ours, [acollect, Ch]),
    %% the other direction is open
    {ok, none} = run(Config, send, [Ch, 3, 1]),
    {ok, 3} = py_channel:recv(Ch).

closed_by_python(Config) ->
    Ch = py_channel:new(),
    {ok, none} = run(Config, produce, [Ch, [1, 2]]),
    {error, {'EOFError', _}} = run(Config, send, [Ch, 3, 1]),
    {ok, 1} = py_channel:recv(Ch),
    {ok, 2} = py_channel:recv(Ch),
    closed = py_channel:recv(Ch),
    ok = py_channel:send(Ch, open).

closed_while_the_producer_is_suspended(Config) ->
    Ch = py_channel:new(#{capacity => 1}),
    {Pid, Ref} = spawn_monitor(fun() -> exit([py_channel:send(Ch, I) || I <- [1, 2]]) end),
    py_test_lib:eventually(fun() -> {status, waiting} = process_info(Pid, status) end),
    ok = py_channel:close(Ch),
    receive {'DOWN', Ref, process, Pid, [ok, {error, closed}]} -> ok end,
    {ok, [1]} = run(Config, collect, [Ch]).

ends_with_its_owner(Config) ->
    Tester = self(),
    {Owner, Ref} = spawn_monitor(fun() -> Tester ! {channel, py_channel:new()}, receive stop -> ok end end),
    Ch = receive {channel, C} -> C end,
    Collecting = start(Config, collect, [Ch]),
    ok = py_channel:send(Ch, 1),
    Owner ! stop,
    receive {'DOWN', Ref, process, Owner, normal} -> ok end,
    {ok, [1]} = py:await(Collecting),
    closed = py_channel:recv(Ch),
    {error, {'EOFError', _}} = run(Config, send, [Ch, 1, 1]).

interrupted_while_waiting(Config) ->
    Ch = py_channel:new(#{capacity => 1}),
    C = proplists:get_value(context, Config),
    {error, timeout} = py:call(C, '__main__', collect, [Ch], #{}, 50),
    {error, timeout} = py:call(C, '__main__', produce, [Ch, [1, 2, 3]], #{}, 50),
    #{lost_workers := 0} = py_context:info(C).

made_by_python(Config) ->
    C = proplists:get_value(context, Config),
    ok = py:exec(C, <<"ch = erlang.Channel(capacity=2)">>),
    {ok, Ch} = py:eval(C, <<"ch">>),
    #{capacity := 2} = py_channel:info(Ch),
    ok = py_channel:send(Ch, hello),
    {ok, {hello, true, 0}} = py:eval(C, <<"(ch.recv(), ch == same, len(ch))">>, #{same => Ch}),
    {error, {'ValueError', _}} = py:eval(C, <<"erlang.Channel(capacity=0)">>),
    {error, {'TypeError', _}} = py:eval(C, <<"erlang.Channel(handle=r)">>, #{r => make_ref()}).

value_that_cannot_cross(Config) ->
    Ch = py_channel:new(),
    {error, {'UnicodeEncodeError', _}} = py:eval(
        proplists:get_value(context, Config), <<"ch.send('\\ud800')">>, #{ch => Ch}
    ),
    ok = py_channel:send(Ch, #{#{} => 1}),
    ok = py_channel:send(Ch, 2),
    {error, {'TypeError', _}} = run(Config, recv, [Ch, 1]),
    {ok, 2} = run(Config, recv, [Ch, 1]).

gigabyte_to_python(Config) ->
    Ch = py_channel:new(#{max_bytes => 8 bsl 20}),
    ok = py:exec(proplists:get_value(context, Config), <<
        "def weigh(ch):\n"
        "    return sum(len(item) for item in ch)\n"
    >>),
    Ref = start(Config, weigh, [Ch]),
    Before = rss(),
    Peak = lists:foldl(
        fun(I, Max) ->
            ok = py_channel:send(Ch, binary:copy(<<I, 255>>, 512 bsl 10)),
            _ = erlang:garbage_collect(),
            max(Max, rss())
        end,
        0,
        lists:seq(1, 1024)
    ),
    ok = py_channel:close(Ch),
    {ok, 1073741824} = py:await(Ref, infinity),
    bounded(Before, Peak).

gigabyte_to_erlang(Config) ->
    Ch = py_channel:new(#{max_bytes => 8 bsl 20}),
    ok = py:exec(proplists:get_value(context, Config), <<
        "def pour(ch, n):\n"
        "    with ch:\n"
        "        for i in range(n): ch.send(bytes([i % 256]) * (1 << 20))\n"
    >>),
    Before = rss(),
    Ref = start(Config, pour, [Ch, 1024]),
    {Bytes, Peak} = pour_out(Ch, 0, 0),
    1073741824 = Bytes,
    {ok, none} = py:await(Ref, infinity),
    bounded(Before, Peak).

pour_out(Ch, Bytes, Peak) ->
    case py_channel:recv(Ch) of
        {ok, Binary} ->
            Size = byte_size(Binary),
            _ = erlang:garbage_collect(),
            pour_out(Ch, Bytes + Size, max(Peak, rss()));
        closed ->
            {Bytes, Peak}
    end.

bounded(Before, Peak) ->
    case Peak - Before of
        Grown when Grown < 200 bsl 20 -> {comment, io_lib:format("~b MB more", [Grown bsr 20])};
        Grown -> error({grown, Grown})
    end.

rss() ->
    {ok, Text} = file:read_file("/proc/self/statm"),
    [_, Pages | _] = string:lexemes(Text, " "),
    4096 * binary_to_integer(Pages).
