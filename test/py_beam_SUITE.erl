%% The loop whose fds and timers the emulator keeps, beside the one that keeps its own: the same programs on both.
-module(py_beam_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [{group, native}, {group, beam}].

groups() ->
    Cases = [
        timers_are_never_early,
        timers_in_order,
        streams_and_drain,
        subprocess,
        add_and_remove_readers,
        reader_stays_ready,
        fd_of_a_file_is_refused,
        connections_of_churn,
        cancelled_at_every_await,
        many_loops,
        loops_that_are_closed_at_once
    ],
    [{native, Cases}, {beam, Cases ++ [event_process_dies, unknown_backend]}].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    _ = py_test_lib:module(Started, "beam_fixture", fixture()),
    Started.

end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_group(Backend, Config) ->
    [{backend, atom_to_binary(Backend)} | Config].

end_per_group(_, _Config) -> ok.

%% What the emulator says of its poll set goes to the logger.
init_per_testcase(_Case, Config) ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => warning, config => #{to => self()}}),
    Config.

end_per_testcase(_Case, _Config) ->
    ok = logger:remove_handler(?MODULE),
    receive {logged, Event} -> ct:fail({logged, Event}) after 0 -> ok end,
    py_test_lib:no_messages().

log(#{msg := {report, _}}, _) ->
    ok;
log(Event, #{config := #{to := To}}) ->
    To ! {logged, Event}.

fixture() ->
    "import asyncio, os, random, socket, subprocess, sys, tempfile, time, erlang\n"
    "def run(backend, function, *args):\n"
    "    with asyncio.Runner(loop_factory=lambda: erlang.new_event_loop(backend=backend)) as runner:\n"
    "        return runner.run(globals()[function](*args))\n"
    "def open_and_close(backend, n):\n"
    "    for _ in range(n): erlang.new_event_loop(backend=backend).close()\n"
    "async def timers(n):\n"
    "    loop = asyncio.get_running_loop()\n"
    "    early = []\n"
    "    async def one(seconds):\n"
    "        start = time.monotonic()\n"
    "        await asyncio.sleep(seconds)\n"
    "        if time.monotonic() - start < seconds: early.append(seconds)\n"
    "    await asyncio.gather(*[one(random.random() / 20) for _ in range(n)])\n"
    "    return early\n"
    "async def in_order():\n"
    "    loop, seen, done = asyncio.get_running_loop(), [], asyncio.Event()\n"
    "    for i in (5, 1, 4, 2, 3):\n"
    "        loop.call_later(i / 200, seen.append, i)\n"
    "    loop.call_later(0.05, done.set)\n"
    "    await done.wait()\n"
    "    return seen\n"
    "async def echo(reader, writer):\n"
    "    while data := await reader.read(65536):\n"
    "        writer.write(data)\n"
    "        await writer.drain()\n"
    "    writer.close()\n"
    "async def streams(size):\n"
    "    server = await asyncio.start_server(echo, '127.0.0.1', 0)\n"
    "    async with server:\n"
    "        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())\n"
    "        data = os.urandom(size)\n"
    "        writer.write(data); writer.write_eof()\n"
    "        back = await reader.read()\n"
    "        writer.close(); await writer.wait_closed()\n"
    "        return back == data\n"
    "async def process():\n"
    "    p = await asyncio.create_subprocess_exec('/bin/cat', stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
    "    out, _ = await p.communicate(b'x' * 500000)\n"
    "    return [len(out), p.returncode]\n"
    "async def readers(n):\n"
    "    loop, seen = asyncio.get_running_loop(), []\n"
    "    a, b = socket.socketpair()\n"
    "    with a, b:\n"
    "        a.setblocking(False)\n"
    "        for i in range(n):\n"
    "            done = loop.create_future()\n"
    "            def ready(i=i, done=done):\n"
    "                seen.append((i, a.recv(10)))\n"
    "                loop.remove_reader(a)\n"
    "                done.set_result(None)\n"
    "            loop.add_reader(a, ready)\n"
    "            b.send(b'%d' % i)\n"
    "            await done\n"
    "        assert loop.remove_reader(a) is False\n"
    "        b.send(b'nobody')\n"
    "        await asyncio.sleep(0.01)\n"
    "    return seen == [(i, b'%d' % i) for i in range(n)]\n"
    "async def stays_ready():\n"
    "    loop, count, done = asyncio.get_running_loop(), 0, asyncio.Event()\n"
    "    a, b = socket.socketpair()\n"
    "    with a, b:\n"
    "        def ready():\n"
    "            nonlocal count\n"
    "            count += 1\n"
    "            if count == 5: done.set()\n"
    "        b.send(b'never read')\n"
    "        loop.add_reader(a, ready)\n"
    "        loop.add_writer(a, lambda: loop.remove_writer(a))\n"
    "        await done.wait()\n"
    "        loop.remove_reader(a)\n"
    "        await asyncio.sleep(0.01)\n"
    "    return count >= 5\n"
    "async def file():\n"
    "    with tempfile.TemporaryFile() as f:\n"
    "        try: asyncio.get_running_loop().add_reader(f, print)\n"
    "        except PermissionError: return 'refused'\n"
    "async def churn(n, at_once):\n"
    "    server = await asyncio.start_server(echo, '127.0.0.1', 0)\n"
    "    address = server.sockets[0].getsockname()\n"
    "    wrong = 0\n"
    "    async def one(i):\n"
    "        nonlocal wrong\n"
    "        reader, writer = await asyncio.open_connection(*address)\n"
    "        data = b'%d' % i\n"
    "        writer.write(data)\n"
    "        wrong += await reader.readexactly(len(data)) != data\n"
    "        writer.close()\n"
    "        await writer.wait_closed()\n"
    "    async def worker(start):\n"
    "        for i in range(start, n, at_once): await one(i)\n"
    "    async with server:\n"
    "        await asyncio.gather(*[worker(i) for i in range(at_once)])\n"
    "    return wrong\n"
    "async def cancels(n):\n"
    "    server = await asyncio.start_server(echo, '127.0.0.1', 0)\n"
    "    address = server.sockets[0].getsockname()\n"
    "    async def one():\n"
    "        reader, writer = await asyncio.open_connection(*address)\n"
    "        try:\n"
    "            for _ in range(5):\n"
    "                writer.write(b'x'); await reader.read(1)\n"
    "        finally:\n"
    "            writer.close()\n"
    "    async with server:\n"
    "        for i in range(n):\n"
    "            task = asyncio.create_task(one())\n"
    "            for _ in range(i % 12): await asyncio.sleep(0)\n"
    "            task.cancel()\n"
    "            await asyncio.gather(task, return_exceptions=True)\n"
    "        reader, writer = await asyncio.open_connection(*address)\n"
    "        writer.write(b'still'); still = await reader.readexactly(5)\n"
    "        writer.close(); await writer.wait_closed()\n"
    "    return still\n"
    "async def survive():\n"
    "    loop = asyncio.get_running_loop()\n"
    "    server = await asyncio.start_server(echo, '127.0.0.1', 0)\n"
    "    async with server:\n"
    "        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())\n"
    "        from erlang._events import event_process\n"
    "        pids = []\n"
    "        for i in range(3):\n"
    "            pid = await event_process()\n"
    "            pids.append(pid)\n"
    "            erlang.apply('erlang', 'exit', [pid, erlang.Atom('kill')])\n"
    "            writer.write(b'x%d' % i)\n"
    "            assert await reader.readexactly(2) == b'x%d' % i\n"
    "            await asyncio.sleep(0.01)\n"
    "        writer.close(); await writer.wait_closed()\n"
    "    return len(set(pids))\n"
    "def fds(): return len(os.listdir('/proc/self/fd'))\n".

run(Config, Function, Args) ->
    py:call(beam_fixture, run, [proplists:get_value(backend, Config), Function | Args], #{}, 200000).

timers_are_never_early(Config) ->
    {ok, []} = run(Config, timers, [2000]).

timers_in_order(Config) ->
    {ok, [1, 2, 3, 4, 5]} = run(Config, in_order, []).

streams_and_drain(Config) ->
    {ok, true} = run(Config, streams, [5000000]).

subprocess(Config) ->
    {ok, [500000, 0]} = run(Config, process, []).

add_and_remove_readers(Config) ->
    {ok, true} = run(Config, readers, [300]).

reader_stays_ready(Config) ->
    {ok, true} = run(Config, stays_ready, []).

fd_of_a_file_is_refused(Config) ->
    {ok, <<"refused">>} = run(Config, file, []).

connections_of_churn(Config) ->
    {ok, Before} = py:call(beam_fixture, fds, []),
    {ok, 0} = run(Config, churn, [10000, 50]),
    py_test_lib:eventually(fun() -> {ok, After} = py:call(beam_fixture, fds, []), true = After =< Before end).

cancelled_at_every_await(Config) ->
    {ok, <<"still">>} = run(Config, cancels, [300]).

many_loops(Config) ->
    {ok, Before} = py:call(beam_fixture, fds, []),
    [{ok, [1, 2, 3, 4, 5]} = run(Config, in_order, []) || _ <- lists:seq(1, 20)],
    py_test_lib:eventually(fun() -> {ok, After} = py:call(beam_fixture, fds, []), true = After =< Before end).

loops_that_are_closed_at_once(Config) ->
    {ok, none} = py:call(beam_fixture, open_and_close, [proplists:get_value(backend, Config), 200]),
    {ok, [1, 2, 3, 4, 5]} = run(Config, in_order, []).

event_process_dies(Config) ->
    ok = application:set_env(erlang_python, callback_apply, [{erlang, exit, 2}]),
    {ok, 3} = run(Config, survive, []),
    ok = application:unset_env(erlang_python, callback_apply).

unknown_backend(_) ->
    {error, {'ValueError', _}} = py:call(beam_fixture, run, [<<"other">>, in_order]).
