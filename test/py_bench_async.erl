%% Events from Erlang to a loop, for py_unified_bench: posted in batches, with the data that is usual for their type; as
%% results of an event process, which resolve futures; and a stream with credit. A rate ends when Python has handled the
%% last one.
-module(py_bench_async).

-export([benches/0]).

-spec benches() -> [py_bench_lib:bench()].
benches() ->
    [
        #{name => <<"event_posted_to_a_handler">>, run => fun() -> posted(1000000, 1000, 30, <<"data">>) end},
        #{name => <<"event_call_result">>, run => fun() -> posted(500000, 1000, 10, {ok, 7}) end},
        #{name => <<"event_async_result">>, run => fun() -> resolved(200000) end},
        #{name => <<"event_subprocess_stdout">>, run => fun() -> posted(200000, 100, 21, binary:copy(<<"x">>, 4096)) end},
        #{name => <<"event_socket_data">>, run => fun() -> posted(200000, 100, 30, binary:copy(<<"x">>, 1024)) end},
        #{name => <<"stream_item_with_credit">>, run => fun() -> stream(200000, 1000) end}
    ].

-spec functions() -> ok.
functions() ->
    ok = py:exec(<<
        "import asyncio\n"
        "bench_seen = 0\n"
        "def bench_event(kind, data):\n"
        "    global bench_seen\n"
        "    bench_seen += 1\n"
        "    if bench_seen == bench_wanted: bench_done.set_result(None)\n"
        "async def bench_listen(number, wanted):\n"
        "    global bench_seen, bench_wanted, bench_done\n"
        "    bench_seen, bench_wanted = 0, wanted\n"
        "    bench_done = asyncio.get_running_loop().create_future()\n"
        "    asyncio.get_running_loop()._register_event(number, bench_event)\n"
        "async def bench_handled(number):\n"
        "    await bench_done\n"
        "    asyncio.get_running_loop()._unregister_event(number)\n"
        "    return bench_seen\n"
        "async def bench_futures(numbers):\n"
        "    global bench_waiting\n"
        "    loop = asyncio.get_running_loop()\n"
        "    bench_waiting = [loop._register_async_future(n) for n in numbers]\n"
        "async def bench_results():\n"
        "    await asyncio.wait(bench_waiting[-1:])\n"
        "    return sum(f.done() for f in bench_waiting)\n"
        "def bench_items(n): yield from range(n)\n"
    >>).

-spec call(atom(), [term()]) -> term().
call(Function, Args) ->
    {ok, Result} = py:async_await(py:async_call('__main__', Function, Args), 60000),
    Result.

-spec posted(pos_integer(), pos_integer(), pos_integer(), term()) -> float().
posted(N, BatchSize, Type, Data) ->
    functions(),
    {ok, Loop} = py_event_loop_proc:of_context(py:context()),
    Port = element(2, sys:get_state(Loop)),
    Id = py_callback_id:next(),
    none = call(bench_listen, [Id, N]),
    Batch = lists:duplicate(BatchSize, {Type, Id, Data}),
    py_bench_lib:per_op(N, fun() ->
        _ = [ok = py_nif:events_post(Port, Batch) || _ <- lists:seq(1, N div BatchSize)],
        N = call(bench_handled, [Id])
    end).

-spec resolved(pos_integer()) -> float().
resolved(N) ->
    functions(),
    {ok, Loop} = py_event_loop_proc:of_context(py:context()),
    Ids = [py_callback_id:next() || _ <- lists:seq(1, N)],
    none = call(bench_futures, [Ids]),
    py_bench_lib:per_op(N, fun() ->
        _ = [ok = py_event_loop_proc:result(Loop, Id, {ok, Id}) || Id <- Ids],
        N = call(bench_results, [])
    end).

-spec stream(pos_integer(), pos_integer()) -> float().
stream(N, Credit) ->
    functions(),
    py_bench_lib:per_op(N, fun() ->
        {ok, Ref} = py:stream_start('__main__', bench_items, [N], #{credit => Credit}),
        N = receive_all(Ref, 0, Credit div 2)
    end).

-spec receive_all(reference(), non_neg_integer(), pos_integer()) -> non_neg_integer().
receive_all(Ref, Next, Half) ->
    receive
        {py_stream, Ref, {data, Next}} when Next rem Half =:= Half - 1 ->
            _ = py:stream_ack(Ref, Half),
            receive_all(Ref, Next + 1, Half);
        {py_stream, Ref, {data, Next}} ->
            receive_all(Ref, Next + 1, Half);
        {py_stream, Ref, done} ->
            Next
    end.
