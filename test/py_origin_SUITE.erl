%% What a coroutine starts - tasks, callbacks, threads - belongs to the request that started it: erlang.self(), output, the
%% chain of calls and the trace.
-module(py_origin_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(TRACE, <<"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01">>).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [{group, native}, {group, beam}].

groups() ->
    Cases = [
        all_that_a_coroutine_starts_knows_who_asked,
        plain_functions_and_what_they_start,
        children_of_a_gather,
        callers_at_once,
        items_of_streams,
        task_outlives_its_request,
        task_outlives_its_caller,
        nobody_asked,
        print_goes_to_the_caller,
        open_lines_are_ended,
        trace_goes_along,
        chain_goes_along,
        deadline_does_not
    ],
    [{native, Cases}, {beam, Cases}].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    _ = py_test_lib:module(Started, "origin_fixture", fixture()),
    Started.

end_per_suite(Config) ->
    py_test_lib:stop(Config).

init_per_group(Backend, Config) -> py_test_lib:loop(Backend, Config).

end_per_group(_Group, Config) -> py_test_lib:loop(native, Config).

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages().

fixture() ->
    "import asyncio, contextvars, erlang, threading\n"
    "kept = []\n"
    "async def me(): return erlang.self()\n"
    "async def me_later():\n"
    "    await asyncio.sleep(0.001)\n"
    "    return erlang.self()\n"
    "def by(schedule):\n"
    "    future = asyncio.get_running_loop().create_future()\n"
    "    schedule(lambda: future.set_result(erlang.self()))\n"
    "    return future\n"
    "async def all_ways():\n"
    "    loop = asyncio.get_running_loop()\n"
    "    async with asyncio.TaskGroup() as group:\n"
    "        tasks = [group.create_task(me()), group.create_task(me_later())]\n"
    "    agen = items(2)\n"
    "    return [\n"
    "        erlang.self(),\n"
    "        await asyncio.create_task(me_later()),\n"
    "        await asyncio.create_task(asyncio.wait_for(me_later(), 5)),\n"
    "        await asyncio.Task(me(), loop=loop, eager_start=True),\n"
    "        *(await asyncio.gather(me(), me_later())),\n"
    "        *(task.result() for task in tasks),\n"
    "        await by(loop.call_soon),\n"
    "        await by(lambda f: loop.call_later(0.001, f)),\n"
    "        await by(loop.call_soon_threadsafe),\n"
    "        await asyncio.to_thread(erlang.self),\n"
    "        await loop.run_in_executor(None, contextvars.copy_context().run, erlang.self),\n"
    "        await asyncio.create_task(anext(agen)),\n"
    "    ]\n"
    "def plain():\n"
    "    task = asyncio.ensure_future(me_later())\n"
    "    return task\n"
    "async def items(n):\n"
    "    for _ in range(n):\n"
    "        yield await asyncio.create_task(me_later())\n"
    "async def leave_behind(event):\n"
    "    async def rest():\n"
    "        await erlang.async_call(event)\n"
    "        erlang.send(erlang.self(), ('behind', erlang.self()))\n"
    "        return erlang.self()\n"
    "    kept.append(asyncio.create_task(rest()))\n"
    "async def left_behind(): return await kept.pop()\n"
    "def in_a_thread():\n"
    "    seen = []\n"
    "    def run():\n"
    "        try: seen.append(erlang.self())\n"
    "        except RuntimeError: seen.append('nobody')\n"
    "    thread = threading.Thread(target=run)\n"
    "    thread.start(); thread.join()\n"
    "    return seen\n"
    "async def prints(text):\n"
    "    async def say(end): print(text, end=end)\n"
    "    await asyncio.create_task(say('1\\n'))\n"
    "    await asyncio.gather(say('2\\n'))\n"
    "    await asyncio.to_thread(print, text + '3')\n"
    "    print(text, '4')\n"
    "async def leaves_open(text):\n"
    "    await asyncio.sleep(0)\n"
    "    print(text, end='')\n"
    "async def fails_open(text):\n"
    "    print(text, end='')\n"
    "    raise ValueError(text)\n"
    "def plain_open(text): print(text, end='')\n"
    "async def trace():\n"
    "    async def of(): return erlang.traceparent()\n"
    "    return [erlang.traceparent(), await asyncio.create_task(of()), await asyncio.to_thread(erlang.traceparent)]\n"
    "async def through(name):\n"
    "    return await asyncio.create_task(erlang.async_call(name))\n"
    "async def begin(name):\n"
    "    kept.append(asyncio.create_task(erlang.async_call(name)))\n".

call(Function, Args) ->
    py:async_await(py:async_call(origin_fixture, Function, Args)).

all_that_a_coroutine_starts_knows_who_asked(_) ->
    {ok, Pids} = call(all_ways, []),
    ?assertEqual([self()], lists:usort(Pids)),
    ?assertEqual(14, length(Pids)).

plain_functions_and_what_they_start(_) ->
    Self = self(),
    {ok, Self} = call(plain, []).

children_of_a_gather(_) ->
    Self = self(),
    Calls = [{origin_fixture, F, []} || F <- [me, me_later, plain]],
    {ok, [Self, Self, Self]} = py:async_gather(Calls).

callers_at_once(_) ->
    Results = py_test_lib:parallel(100, fun(_) -> {self(), call(all_ways, [])} end),
    [?assertEqual([Pid], lists:usort(Pids)) || {Pid, {ok, Pids}} <- Results],
    ?assertEqual(100, length(Results)).

items_of_streams(_) ->
    Self = self(),
    {ok, [Self, Self]} = py:stream(origin_fixture, items, [2]),
    {ok, Ref} = py:stream_start(origin_fixture, items, [1]),
    receive {py_stream, Ref, {data, Pid}} -> Self = Pid end,
    receive {py_stream, Ref, done} -> ok end.

%% A function of Erlang's that returns when it is told to.
gate() ->
    Test = self(),
    ok = py:register_function(origin_gate, fun() ->
        Test ! {at_gate, self()},
        receive go -> none end
    end),
    fun() -> receive {at_gate, Pid} -> Pid ! go, ok end end.

task_outlives_its_request(_) ->
    Self = self(),
    Open = gate(),
    {ok, none} = call(leave_behind, [<<"origin_gate">>]),
    _ = [call(me, []) || _ <- lists:seq(1, 100)], %% other requests in its memory
    ok = Open(),
    receive {<<"behind">>, Self} -> ok end,
    {ok, Self} = call(left_behind, []).

task_outlives_its_caller(_) ->
    Open = gate(),
    {Pid, Monitor} = spawn_monitor(fun() -> {ok, none} = call(leave_behind, [<<"origin_gate">>]) end),
    receive {'DOWN', Monitor, process, Pid, normal} -> ok end,
    ok = Open(),
    {ok, Pid} = call(left_behind, []).

nobody_asked(_) ->
    {ok, [<<"nobody">>]} = py:call(origin_fixture, in_a_thread, []).

%% ---- output ----

with_device(Fun) ->
    Device = spawn_link(fun() -> device([]) end),
    {_, Monitor} = spawn_monitor(fun() ->
        group_leader(Device, self()),
        Fun()
    end),
    receive {'DOWN', Monitor, process, _, Why} -> normal = Why end,
    Device ! {written, self()},
    receive {Device, Text} -> Text end.

device(Written) ->
    receive
        {io_request, From, Ref, {put_chars, unicode, Chars}} ->
            From ! {io_reply, Ref, ok},
            device([Written, Chars]);
        {written, From} ->
            From ! {self(), unicode:characters_to_binary(Written)}
    end.

print_goes_to_the_caller(_) ->
    Texts = py_test_lib:parallel(20, fun(I) ->
        Name = integer_to_binary(I),
        {Name, with_device(fun() -> {ok, none} = call(prints, [Name]) end)}
    end),
    [?assertEqual(iolist_to_binary([N, "1\n", N, "2\n", N, "3\n", N, " 4\n"]), Text) || {N, Text} <- Texts].

open_lines_are_ended(_) ->
    <<"open">> = with_device(fun() -> {ok, none} = call(leaves_open, [<<"open">>]) end),
    <<"failed">> = with_device(fun() -> {error, {'ValueError', _}} = call(fails_open, [<<"failed">>]) end),
    <<"plain">> = with_device(fun() -> {ok, none} = call(plain_open, [<<"plain">>]) end),
    <<"ab">> = with_device(fun() ->
        {ok, [none, none]} = py:async_gather([{origin_fixture, plain_open, [<<"a">>]}, {origin_fixture, leaves_open, [<<"b">>]}])
    end).

%% ---- trace and chain ----

trace_goes_along(_) ->
    {ok, [?TRACE, ?TRACE, ?TRACE]} = py_telemetry:with_traceparent(?TRACE, fun() -> call(trace, []) end),
    {ok, [none, none, none]} = call(trace, []).

%% The only worker waits for a function that waits for a task on the loop that waits for a function that needs the worker.
chain_goes_along(_) ->
    Context = py_test_lib:context(#{threads => 1}),
    ok = py:register_function(origin_inner, fun() ->
        {ok, 1} = py:call(Context, builtins, abs, [-1]),
        <<"inner">>
    end),
    ok = py:register_function(origin_outer, fun() ->
        {ok, Inner} = py:async_await(py:async_call(Context, origin_fixture, through, [<<"origin_inner">>])),
        Inner
    end),
    {ok, <<"inner">>} = py:call(Context, erlang, call, [<<"origin_outer">>]),
    py_test_lib:drop(Context).

deadline_does_not(_) ->
    Test = self(),
    ok = py:register_function(origin_slow, fun() -> Test ! {began, self()}, receive go -> <<"done">> end end),
    {ok, [none]} = py:async_gather([{origin_fixture, 'begin', [<<"origin_slow">>]}], #{timeout => 1000}),
    Pid = receive {began, P} -> P end,
    {ok, none} = py:call(time, sleep, [1.2]), %% until that deadline has passed
    Pid ! go,
    {ok, <<"done">>} = call(left_behind, []).
