%% What Erlang tells a loop: results for futures, sockets and programs that asyncio protocols speak over, and what
%% becomes of them when one side ends.
-module(py_events_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [{group, native}, {group, beam}].

groups() ->
    Cases = [
        runs_on_the_backend,
        callback_ids_are_never_given_twice,
        result_after_the_future,
        result_before_the_future,
        error_result,
        results_in_order,
        unregister_before_the_result,
        many_results_in_one_message,
        handler_gets_type_and_data,
        handler_that_raises,
        protocol_over_an_accepted_socket,
        streams_over_an_accepted_socket,
        buffered_protocol_over_a_socket,
        big_data_both_ways,
        pause_writing_when_the_peer_does_not_read,
        pause_reading_holds_the_peer_back,
        half_close,
        peer_resets,
        close_flushes,
        abort_closes_at_once,
        protocol_that_raises,
        factory_that_raises,
        datagrams,
        program_of_an_erlang_port,
        program_started_by_python,
        process_of_asyncio_over_a_port,
        program_that_is_not_there,
        program_has_an_input_that_ends,
        program_has_an_error_output_of_its_own,
        program_with_both_outputs_in_one,
        program_gets_much_and_gives_much,
        program_that_does_not_read_holds_writers_back,
        program_is_held_back_while_nobody_reads,
        program_that_ended_while_nobody_reads,
        program_whose_helper_is_killed,
        program_that_reads_no_more,
        program_ends_by_a_signal,
        program_in_a_directory_with_an_environment,
        program_is_closed,
        program_ends_with_its_event_process,
        socket_is_closed_with_the_loop,
        dead_event_process_answers_all,
        dead_event_process_that_was_opening_a_program,
        dead_manager_answers_all,
        dead_manager_before_there_is_an_event_process,
        fds_and_timers_outlive_the_event_process,
        fds_and_timers_outlive_the_manager,
        timers_go_on_without_a_manager,
        program_that_nobody_waits_for,
        event_process_ends_with_its_loop,
        attach_to_a_stopped_loop,
        sockets_by_the_hundred
    ],
    [{native, Cases}, {beam, Cases}].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    _ = py_test_lib:module(Started, "events_fixture", fixture()),
    Started.

end_per_suite(Config) ->
    _ = py_context:stop_loop(py:context(), 1000),
    py_test_lib:stop(Config).

init_per_group(Backend, Config) -> py_test_lib:loop(Backend, Config).

end_per_group(_Group, Config) -> py_test_lib:loop(native, Config).

init_per_testcase(_Case, Config) ->
    {ok, none} = py:call(events_fixture, clear, []),
    Config.

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages().

fixture() ->
    "import asyncio, socket\n"
    "def on_beam(): return asyncio.get_running_loop()._on_beam\n"
    "seen = []\n"
    "protocols = []\n"
    "def clear():\n"
    "    seen.clear(); protocols.clear()\n"
    "loop = asyncio.get_running_loop\n"
    "async def result(number):\n"
    "    return await loop()._register_async_future(number)\n"
    "async def results(numbers):\n"
    "    return await asyncio.gather(*[loop()._register_async_future(n) for n in numbers])\n"
    "async def forget(number):\n"
    "    future = loop()._register_async_future(number)\n"
    "    return [loop()._unregister_event(number), loop()._unregister_event(number)]\n"
    "async def listen(number):\n"
    "    loop()._register_event(number, lambda kind, data: seen.append((kind, data)))\n"
    "async def listen_badly(number):\n"
    "    def bad(kind, data):\n"
    "        seen.append(data)\n"
    "        raise ValueError(data)\n"
    "    loop().set_exception_handler(lambda l, c: seen.append(type(c['exception']).__name__))\n"
    "    loop()._register_event(number, bad)\n"
    "async def no_handler():\n"
    "    loop().set_exception_handler(None)\n"
    "class Echo(asyncio.Protocol):\n"
    "    def connection_made(self, transport):\n"
    "        self.transport = transport\n"
    "        protocols.append(self)\n"
    "        seen.append(('made', transport.get_extra_info('peername')[0]))\n"
    "    def data_received(self, data):\n"
    "        self.transport.write(data)\n"
    "    def eof_received(self):\n"
    "        seen.append('eof')\n"
    "    def pause_writing(self): seen.append('paused')\n"
    "    def resume_writing(self): seen.append('resumed')\n"
    "    def connection_lost(self, error):\n"
    "        seen.append(('lost', None if error is None else type(error).__name__))\n"
    "class HalfClose(Echo):\n"
    "    def eof_received(self):\n"
    "        self.transport.write(b'last words')\n"
    "        self.transport.close()\n"
    "        return True\n"
    "class Sink(Echo):\n"
    "    size = 0\n"
    "    def data_received(self, data):\n"
    "        self.size += len(data)\n"
    "class Paused(Sink):\n"
    "    def connection_made(self, transport):\n"
    "        super().connection_made(transport)\n"
    "        transport.pause_reading()\n"
    "class Source(Echo):\n"
    "    def connection_made(self, transport):\n"
    "        super().connection_made(transport)\n"
    "        transport.write(b'x' * 8_000_000)\n"
    "        transport.close()\n"
    "class Raises(Echo):\n"
    "    def data_received(self, data):\n"
    "        loop().set_exception_handler(lambda l, c: seen.append(type(c['exception']).__name__))\n"
    "        raise ValueError(data)\n"
    "class Buffered(asyncio.BufferedProtocol):\n"
    "    def connection_made(self, transport):\n"
    "        self.transport = transport; self.buffer = bytearray(4)\n"
    "    def get_buffer(self, hint): return self.buffer\n"
    "    def buffer_updated(self, n): self.transport.write(self.buffer[:n])\n"
    "    def eof_received(self): pass\n"
    "    def connection_lost(self, error): pass\n"
    "def bad_factory(): raise RuntimeError('no protocol')\n"
    "def lines():\n"
    "    async def handle(reader, writer):\n"
    "        while line := await reader.readline():\n"
    "            writer.write(line.upper())\n"
    "            await writer.drain()\n"
    "        writer.close()\n"
    "        seen.append('handled')\n"
    "    return asyncio.StreamReaderProtocol(asyncio.StreamReader(), handle)\n"
    "async def size(): return protocols[-1].size\n"
    "async def resume(): protocols[-1].transport.resume_reading()\n"
    "async def buffered(): return protocols[-1].transport.get_write_buffer_size()\n"
    "async def abort(): protocols[-1].transport.abort()\n"
    "class Upper(asyncio.DatagramProtocol):\n"
    "    def connection_made(self, transport): self.transport = transport\n"
    "    def datagram_received(self, data, peer): self.transport.sendto(data.upper(), peer)\n"
    "class Program(asyncio.SubprocessProtocol):\n"
    "    def connection_made(self, transport):\n"
    "        self.transport = transport\n"
    "        protocols.append(self)\n"
    "        self.output = []\n"
    "        self.ended = loop().create_future()\n"
    "        seen.append('made')\n"
    "    def pipe_data_received(self, fd, data): self.output.append(data)\n"
    "    def process_exited(self): seen.append('exited')\n"
    "    def connection_lost(self, error):\n"
    "        self.ended.set_result([b''.join(self.output), self.transport.get_returncode()])\n"
    "async def ended():\n"
    "    return await protocols[-1].ended\n"
    "async def say(data):\n"
    "    protocols[-1].transport.get_pipe_transport(0).write(data.encode())\n"
    "async def program(*args, **options):\n"
    "    transport, protocol = await loop()._register_subprocess(Program, *args, **options)\n"
    "    return await protocol.ended\n"
    "async def start(*args, **options):\n"
    "    from asyncio.subprocess import Process, SubprocessStreamProtocol\n"
    "    factory = lambda: SubprocessStreamProtocol(2**16, loop())\n"
    "    return Process(*await loop()._register_subprocess(factory, *args, **options), loop())\n"
    "async def communicate(data, *args):\n"
    "    process = await start(*args)\n"
    "    out, err = await process.communicate(data.encode())\n"
    "    return [out, err, process.returncode]\n"
    "async def merged(*args):\n"
    "    fds = set()\n"
    "    class Merged(Program):\n"
    "        def pipe_data_received(self, fd, data):\n"
    "            fds.add(fd); super().pipe_data_received(fd, data)\n"
    "    _, protocol = await loop()._register_subprocess(Merged, *args, stderr_to_stdout=True)\n"
    "    out, status = await protocol.ended\n"
    "    return [out, sorted(fds), status]\n"
    "async def program_in(cwd, env, *args):\n"
    "    return await program(*args, cwd=cwd, env=env)\n"
    "async def overfill(*args):\n"
    "    process = await start(*args)\n"
    "    process.stdin.write(bytes(4_000_000))\n"
    "    try:\n"
    "        async with asyncio.timeout(0.3): await process.stdin.drain()\n"
    "    except TimeoutError: pass\n"
    "    left = process.stdin.transport.get_write_buffer_size()\n"
    "    process.kill()\n"
    "    await process.wait()\n"
    "    return left > 3_000_000\n"
    "async def held_back(*args):\n"
    "    transport, protocol = await loop()._register_subprocess(Program, *args)\n"
    "    out = transport.get_pipe_transport(1)\n"
    "    out.pause_reading()\n"
    "    assert not out.is_reading()\n"
    "    errors = []\n"
    "    protocol.pipe_data_received = lambda fd, data: (errors if fd == 2 else protocol.output).append(data)\n"
    "    await asyncio.sleep(0.2)\n"
    "    said = b''.join(errors)\n"
    "    out.resume_reading()\n"
    "    await protocol.ended\n"
    "    return [said, len(b''.join(protocol.output)), b''.join(errors)]\n"
    "async def start_paused(*args):\n"
    "    transport, _ = await loop()._register_subprocess(Program, *args)\n"
    "    for fd in (1, 2): transport.get_pipe_transport(fd).pause_reading()\n"
    "async def resume_output():\n"
    "    for fd in (1, 2): protocols[-1].transport.get_pipe_transport(fd).resume_reading()\n"
    "async def no_reader(*args):\n"
    "    lost = loop().create_future()\n"
    "    class Reads(Program):\n"
    "        def pipe_connection_lost(self, fd, error):\n"
    "            if fd == 0: lost.set_result(type(error).__name__)\n"
    "        def pipe_data_received(self, fd, data):\n"
    "            self.transport.get_pipe_transport(0).write(b'x' * 100000)\n"
    "    _, protocol = await loop()._register_subprocess(Reads, *args)\n"
    "    name = await lost\n"
    "    return [name, (await protocol.ended)[1]]\n"
    "async def closed(*args):\n"
    "    transport, protocol = await loop()._register_subprocess(Program, *args)\n"
    "    while not protocol.output: await asyncio.sleep(0.001)\n"
    "    transport.close()\n"
    "    assert transport.is_closing()\n"
    "    return [(await protocol.ended)[1], 'lost']\n"
    "async def with_pid(*args):\n"
    "    transport, protocol = await loop()._register_subprocess(Program, *args)\n"
    "    return (await protocol.ended)[1]\n"
    "async def pid(): return protocols[-1].transport.get_pid()\n"
    "async def opening(*args):\n"
    "    seen.append('opening')\n"
    "    return await program(*args)\n"
    "async def fd_and_timers():\n"
    "    a, b = socket.socketpair()\n"
    "    with a, b:\n"
    "        a.setblocking(False)\n"
    "        protocols.append(b)\n"
    "        loop().call_later(0, seen.append, 'waits')\n"
    "        got, _ = await asyncio.gather(loop().sock_recv(a, 10), asyncio.sleep(0.3))\n"
    "        await asyncio.sleep(0.001)\n"
    "    return got\n"
    "async def let_go(): protocols[-1].send(b'go')\n"
    "async def nap(seconds): return await asyncio.sleep(seconds, 'slept')\n"
    "async def process(*args):\n"
    "    from asyncio.subprocess import Process, SubprocessStreamProtocol\n"
    "    factory = lambda: SubprocessStreamProtocol(2**16, loop())\n"
    "    process = Process(*await loop()._register_subprocess(factory, *args), loop())\n"
    "    process.stdin.write(b'one\\ntwo\\n')\n"
    "    await process.stdin.drain()\n"
    "    lines = [await process.stdout.readline() for _ in range(2)]\n"
    "    process.terminate()\n"
    "    return [lines, await process.wait()]\n".

runs_on_the_backend(Config) ->
    OnBeam = proplists:get_value(backend, Config) =:= beam,
    {ok, OnBeam} = py:async_await(py:async_call(events_fixture, on_beam, [])).

seen() ->
    {ok, Seen} = py:eval(<<"__import__('events_fixture').seen">>),
    Seen.

wait_seen(What) ->
    py_test_lib:eventually(fun() -> true = lists:member(What, seen()) end).

run(Function, Args) ->
    py:async_await(py:async_call(events_fixture, Function, Args)).

events() ->
    {ok, Loop} = py_event_loop_proc:of_context(py:context()),
    Loop.

pair() ->
    {ok, Listen} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}, {sndbuf, 65536}, {recbuf, 65536}]),
    {ok, Port} = inet:port(Listen),
    {ok, Client} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}, {sndbuf, 65536}, {recbuf, 65536}]),
    {ok, Server} = gen_tcp:accept(Listen),
    ok = gen_tcp:close(Listen),
    {Client, Server}.

attached(Factory) ->
    {Client, Server} = pair(),
    ok = py_event_loop_proc:attach(events(), Server, {events_fixture, Factory, []}),
    Client.

%% ---- results ----

callback_ids_are_never_given_twice(_) ->
    Ids = lists:append(py_test_lib:parallel(8, fun(_) -> [py_callback_id:next() || _ <- lists:seq(1, 1000)] end)),
    ?assertEqual(8000, length(lists:usort(Ids))).

result_after_the_future(_) ->
    Id = py_callback_id:next(),
    Loop = events(),
    Ref = py:async_call(events_fixture, result, [Id]),
    {ok, 1} = py:async_await(py:async_call(builtins, int, [1])),
    ok = py_event_loop_proc:result(Loop, Id, {ok, #{a => [1, <<"two">>]}}),
    {ok, #{a := [1, <<"two">>]}} = py:async_await(Ref).

result_before_the_future(_) ->
    Id = py_callback_id:next(),
    ok = py_event_loop_proc:result(events(), Id, {ok, early}),
    %% The same process answers after it has posted what came before.
    _ = events(),
    {ok, early} = run(result, [Id]).

error_result(_) ->
    [begin
        Id = py_callback_id:next(),
        Loop = events(),
        First andalso py_event_loop_proc:result(Loop, Id, {error, enoent}),
        Ref = py:async_call(events_fixture, result, [Id]),
        First orelse py_event_loop_proc:result(Loop, Id, {error, enoent}),
        {error, {'ErlangError', #{message := Message}}} = py:async_await(Ref),
        ?assertMatch({match, _}, re:run(Message, "enoent"))
     end || First <- [true, false]].

results_in_order(_) ->
    Ids = [py_callback_id:next() || _ <- lists:seq(1, 1000)],
    Loop = events(),
    Ref = py:async_call(events_fixture, results, [Ids]),
    [py_event_loop_proc:result(Loop, Id, {ok, Id}) || Id <- lists:reverse(Ids)],
    {ok, Ids} = py:async_await(Ref).

unregister_before_the_result(_) ->
    Id = py_callback_id:next(),
    Loop = events(),
    {ok, [true, false]} = run(forget, [Id]),
    ok = py_event_loop_proc:result(Loop, Id, {ok, late}),
    _ = events(),
    %% The late one is gone: the number waits for another.
    Ref = py:async_call(events_fixture, result, [Id]),
    {ok, 1} = py:async_await(py:async_call(builtins, int, [1])),
    ok = py_event_loop_proc:result(Loop, Id, {ok, anew}),
    {ok, anew} = py:async_await(Ref).

many_results_in_one_message(_) ->
    Ids = [py_callback_id:next() || _ <- lists:seq(1, 5000)],
    Ref = py:async_call(events_fixture, results, [Ids]),
    ok = py_event_loop_proc:results(events(), [{Id, {ok, Id}} || Id <- Ids]),
    {ok, Ids} = py:async_await(Ref).

handler_gets_type_and_data(_) ->
    Id = py_callback_id:next(),
    {ok, none} = run(listen, [Id]),
    Port = element(2, sys:get_state(events())),
    ok = py_nif:events_post(Port, [{20, Id, 7}, {30, Id, <<"raw">>}, {12, Id, <<"text">>}]),
    py_test_lib:eventually(fun() -> [{20, 7}, {30, <<"raw">>}, {12, <<"text">>}] = seen() end).

handler_that_raises(_) ->
    Id = py_callback_id:next(),
    {ok, none} = run(listen_badly, [Id]),
    ok = py_event_loop_proc:results(events(), [{Id, {ok, 1}}, {Id, {ok, 2}}]),
    py_test_lib:eventually(fun() -> [1, <<"ValueError">>, 2, <<"ValueError">>] = seen() end),
    {ok, none} = run(no_handler, []).

%% ---- sockets ----

protocol_over_an_accepted_socket(_) ->
    Client = attached('Echo'),
    [begin
        ok = gen_tcp:send(Client, Data),
        {ok, Data} = gen_tcp:recv(Client, byte_size(Data), 60000)
     end || Data <- [<<"hello">>, <<0, 255, 200>>, binary:copy(<<"abc">>, 1000)]],
    [{<<"made">>, <<"127.0.0.1">>}] = seen(),
    ok = gen_tcp:close(Client),
    wait_seen({<<"lost">>, none}),
    [_, <<"eof">>, _] = seen().

streams_over_an_accepted_socket(_) ->
    Client = attached(lines),
    ok = gen_tcp:send(Client, <<"one\ntwo\n">>),
    {ok, <<"ONE\nTWO\n">>} = gen_tcp:recv(Client, 8, 60000),
    ok = gen_tcp:shutdown(Client, write),
    {error, closed} = gen_tcp:recv(Client, 0, 60000),
    wait_seen(<<"handled">>).

buffered_protocol_over_a_socket(_) ->
    Client = attached('Buffered'),
    ok = gen_tcp:send(Client, <<"0123456789">>),
    {ok, <<"0123456789">>} = gen_tcp:recv(Client, 10, 60000),
    ok = gen_tcp:close(Client).

big_data_both_ways(_) ->
    Client = attached('Echo'),
    Data = crypto:strong_rand_bytes(5000000),
    {Pid, Monitor} = spawn_monitor(fun() -> ok = gen_tcp:send(Client, Data) end),
    {ok, Back} = gen_tcp:recv(Client, byte_size(Data), 60000),
    ?assert(Back =:= Data),
    receive {'DOWN', Monitor, _, Pid, Why} -> normal = Why end,
    ok = gen_tcp:close(Client).

pause_writing_when_the_peer_does_not_read(_) ->
    Client = attached('Source'),
    wait_seen(<<"paused">>),
    {ok, Waiting} = run(buffered, []),
    ?assert(Waiting > 65536),
    {ok, All} = gen_tcp:recv(Client, 8000000, 60000),
    ?assertEqual(8000000, byte_size(All)),
    {error, closed} = gen_tcp:recv(Client, 0, 60000),
    wait_seen({<<"lost">>, none}),
    ?assert(lists:member(<<"resumed">>, seen())).

pause_reading_holds_the_peer_back(_) ->
    Client = attached('Paused'),
    {Pid, Monitor} = spawn_monitor(fun() ->
        ok = gen_tcp:send(Client, binary:copy(<<"x">>, 20000000)),
        exit(sent)
    end),
    %% It blocks in send: nothing was taken by Python.
    py_test_lib:eventually(fun() -> {ok, [{send_pend, N}]} = inet:getstat(Client, [send_pend]), true = N > 0 end),
    {ok, 0} = run(size, []),
    {ok, none} = run(resume, []),
    receive {'DOWN', Monitor, _, Pid, Why} -> sent = Why end,
    py_test_lib:eventually(fun() -> {ok, 20000000} = run(size, []) end),
    ok = gen_tcp:close(Client).

half_close(_) ->
    Client = attached('HalfClose'),
    ok = gen_tcp:shutdown(Client, write),
    {ok, <<"last words">>} = gen_tcp:recv(Client, 10, 60000),
    {error, closed} = gen_tcp:recv(Client, 0, 60000),
    wait_seen({<<"lost">>, none}).

peer_resets(_) ->
    Client = attached('Echo'),
    ok = inet:setopts(Client, [{linger, {true, 0}}]),
    ok = gen_tcp:close(Client),
    py_test_lib:eventually(fun() -> [_] = [L || {<<"lost">>, _} = L <- seen()] end).

close_flushes(_) ->
    Client = attached('Source'),
    {ok, _} = gen_tcp:recv(Client, 8000000, 60000),
    {error, closed} = gen_tcp:recv(Client, 0, 60000).

abort_closes_at_once(_) ->
    Client = attached('Echo'),
    {ok, none} = run(abort, []),
    {error, _} = gen_tcp:recv(Client, 0, 60000),
    wait_seen({<<"lost">>, none}).

protocol_that_raises(_) ->
    Client = attached('Raises'),
    ok = gen_tcp:send(Client, <<"x">>),
    {error, _} = gen_tcp:recv(Client, 0, 60000),
    wait_seen({<<"lost">>, <<"ValueError">>}),
    ?assert(lists:member(<<"ValueError">>, seen())),
    {ok, none} = run(no_handler, []).

factory_that_raises(_) ->
    {Client, Server} = pair(),
    {error, <<"RuntimeError: no protocol">>} =
        py_event_loop_proc:attach(events(), Server, {events_fixture, bad_factory, []}),
    {error, closed} = gen_tcp:recv(Client, 0, 60000),
    {error, _} = py_event_loop_proc:attach(events(), Server, {events_fixture, 'Echo', []}).

datagrams(_) ->
    {ok, Server} = gen_udp:open(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Server),
    ok = py_event_loop_proc:attach(events(), Server, {events_fixture, 'Upper', []}),
    {ok, Client} = gen_udp:open(0, [binary, {active, false}]),
    [begin
        ok = gen_udp:send(Client, {127, 0, 0, 1}, Port, integer_to_binary(I)),
        Back = integer_to_binary(I),
        {ok, {{127, 0, 0, 1}, Port, Back}} = gen_udp:recv(Client, 0, 60000)
     end || I <- lists:seq(1, 100)],
    ok = gen_udp:close(Client).

%% ---- programs ----

program_of_an_erlang_port(_) ->
    Args = ["-c", "read line; echo got $line; exit 3"],
    Port = open_port({spawn_executable, "/bin/sh"}, [{args, Args}, binary, exit_status]),
    ok = py_event_loop_proc:attach(events(), Port, {events_fixture, 'Program', []}),
    {ok, none} = run(say, [<<"hello\n">>]),
    {ok, [<<"got hello\n">>, 3]} = run(ended, []),
    [<<"made">>, <<"exited">>] = seen().

program_started_by_python(_) ->
    {ok, [<<"a b\n">>, 0]} = run(program, [<<"/bin/echo">>, <<"a b">>]),
    {ok, [<<"err\n">>, 7]} =
        py:async_await(py:async_call(events_fixture, program, [<<"/bin/sh">>, <<"-c">>, <<"echo err >&2; exit 7">>],
            #{stderr_to_stdout => true})),
    {ok, [<<"/tmp v\n">>, 0]} =
        py:async_await(py:async_call(events_fixture, program, [<<"/bin/sh">>, <<"-c">>, <<"echo $(pwd) $V">>],
            #{cwd => <<"/tmp">>, env => #{<<"V">> => <<"v">>}})),
    {ok, [Big, 0]} = run(program, [<<"/bin/sh">>, <<"-c">>, <<"head -c 3000000 /dev/zero">>]),
    ?assertEqual(3000000, byte_size(Big)).

process_of_asyncio_over_a_port(_) ->
    {ok, [[<<"one\n">>, <<"two\n">>], -15]} = run(process, [<<"/bin/cat">>]).

program_that_is_not_there(_) ->
    {error, {'FileNotFoundError', _}} = run(program, [<<"/no/such/program">>]),
    {error, {'FileNotFoundError', _}} = run(program_in, [<<"/no/such/directory">>, #{}, <<"true">>]),
    {error, {'PermissionError', _}} = run(program, [<<"/etc/passwd">>]).

program_has_an_input_that_ends(_) ->
    {ok, [<<"two one">>, <<>>, 0]} = run(communicate, [<<"one two">>, <<"awk">>, <<"{printf \"%s %s\", $2, $1}">>]),
    {ok, [<<>>, <<>>, 3]} = run(communicate, [<<>>, <<"sh">>, <<"-c">>, <<"cat; exit 3">>]).

program_has_an_error_output_of_its_own(_) ->
    {ok, [<<"out">>, <<"err">>, 0]} = run(communicate, [<<>>, <<"sh">>, <<"-c">>, <<"printf out; printf err >&2">>]).

program_with_both_outputs_in_one(_) ->
    {ok, [<<"outerr">>, [1], 0]} = run(merged, [<<"sh">>, <<"-c">>, <<"printf out; printf err >&2">>]).

program_gets_much_and_gives_much(_) ->
    Data = binary:copy(<<"0123456789abcdef">>, 200000),
    {ok, [Data, <<>>, 0]} = run(communicate, [Data, <<"cat">>]),
    {ok, [<<>>, Data, 0]} = run(communicate, [Data, <<"sh">>, <<"-c">>, <<"cat >&2">>]).

program_that_does_not_read_holds_writers_back(_) ->
    {ok, true} = run(overfill, [<<"sleep">>, <<"60">>]).

%% It writes a line to its standard error when its standard output takes all, which it only does when that is read.
program_is_held_back_while_nobody_reads(_) ->
    Script = <<"head -c 3000000 /dev/zero; echo done >&2">>,
    {ok, [<<>>, 3000000, <<"done\n">>]} = run(held_back, [<<"sh">>, <<"-c">>, Script]).

program_that_ended_while_nobody_reads(_) ->
    on_a_loop(fun(Context, Loop) ->
        Call = fun(F, Args) -> py:async_await(py:async_call(Context, events_fixture, F, Args)) end,
        {ok, none} = Call(start_paused, [<<"sh">>, <<"-c">>, <<"echo out; echo err >&2; exit 5">>]),
        wait_seen(<<"exited">>),
        {ok, none} = Call(resume_output, []),
        {ok, [Output, 5]} = Call(ended, []),
        ?assertEqual([<<"err">>, <<"out">>], lists:sort(string:lexemes(Output, "\n"))),
        py_test_lib:eventually(fun() -> [] = ports(Loop) end)
    end).

ports(Loop) ->
    {links, Links} = process_info(Loop, links),
    [L || L <- Links, is_port(L)].

program_whose_helper_is_killed(_) ->
    on_a_loop(fun(Context, Loop) ->
        Call = fun(F, Args) -> py:async_await(py:async_call(Context, events_fixture, F, Args)) end,
        {ok, none} = Call(start_paused, [<<"sh">>, <<"-c">>, <<"echo out; exec sleep 60">>]),
        {ok, OsPid} = Call(pid, []),
        [Port] = ports(Loop),
        {os_pid, Helper} = erlang:port_info(Port, os_pid),
        _ = os:cmd("kill -9 " ++ integer_to_list(Helper)),
        py_test_lib:eventually(fun() -> false = runs(OsPid) end),
        {ok, none} = Call(resume_output, []),
        {ok, [_, none]} = Call(ended, []),
        py_test_lib:eventually(fun() -> [] = ports(Loop) end)
    end).

program_that_reads_no_more(_) ->
    {ok, [<<"BrokenPipeError">>, 0]} = run(no_reader, [<<"sh">>, <<"-c">>, <<"exec <&-; echo closed; sleep 0.2">>]).

program_ends_by_a_signal(_) ->
    {ok, [<<>>, <<>>, -9]} = run(communicate, [<<>>, <<"sh">>, <<"-c">>, <<"kill -9 $$">>]).

program_in_a_directory_with_an_environment(_) ->
    {ok, [<<"/tmp yes\n">>, 0]} =
        run(program_in, [<<"/tmp">>, #{<<"ANSWER">> => <<"yes">>}, <<"sh">>, <<"-c">>, <<"echo `pwd` $ANSWER">>]).

program_is_closed(_) ->
    {ok, [-9, <<"lost">>]} = run(closed, [<<"sh">>, <<"-c">>, <<"echo on; exec sleep 60">>]).

program_ends_with_its_event_process(_) ->
    on_a_loop(fun(Context, Loop) ->
        Ref = py:async_call(Context, events_fixture, with_pid, [<<"sh">>, <<"-c">>, <<"exec sleep 60">>]),
        wait_seen(<<"made">>),
        {ok, OsPid} = py:async_await(py:async_call(Context, events_fixture, pid, [])),
        true = runs(OsPid),
        exit(Loop, kill),
        {ok, none} = py:async_await(Ref),
        py_test_lib:eventually(fun() -> false = runs(OsPid) end)
    end).

runs(OsPid) ->
    os:cmd("kill -0 " ++ integer_to_list(OsPid) ++ " 2>&1") =:= "".

%% ---- ends ----

on_a_loop(Fun) ->
    Context = py_test_lib:context(#{}),
    {ok, Loop} = py_event_loop_proc:of_context(Context),
    Fun(Context, Loop),
    py_test_lib:drop(Context).

socket_is_closed_with_the_loop(_) ->
    on_a_loop(fun(Context, Loop) ->
        {Client, Server} = pair(),
        ok = py_event_loop_proc:attach(Loop, Server, {events_fixture, 'Echo', []}),
        ok = py_context:stop_loop(Context, 0),
        {error, closed} = gen_tcp:recv(Client, 0, 60000)
    end).

dead_event_process_answers_all(_) ->
    on_a_loop(fun(Context, Loop) ->
        Id = py_callback_id:next(),
        {Client, Server} = pair(),
        ok = py_event_loop_proc:attach(Loop, Server, {events_fixture, 'Echo', []}),
        Ref = py:async_call(Context, events_fixture, result, [Id]),
        {ok, 1} = py:async_await(py:async_call(Context, builtins, int, [1])),
        exit(Loop, kill),
        {error, {'ErlangError', #{message := Message}}} = py:async_await(Ref),
        ?assertMatch({match, _}, re:run(Message, "noproc")),
        {error, closed} = gen_tcp:recv(Client, 0, 60000),
        wait_seen({<<"lost">>, <<"ConnectionResetError">>}),
        %% The next one who needs it gets a new one.
        {ok, Next} = py_event_loop_proc:of_context(Context),
        ?assertNotEqual(Loop, Next)
    end).

%% Python runs while the event process does not, and asks it in vain.
dead_event_process_that_was_opening_a_program(_) ->
    on_a_loop(fun(Context, Loop) ->
        true = erlang:suspend_process(Loop),
        Ref = py:async_call(Context, events_fixture, opening, [<<"/bin/cat">>]),
        wait_seen(<<"opening">>),
        exit(Loop, kill),
        {error, {'ConnectionResetError', _}} = py:async_await(Ref),
        ?assertNot(lists:member(<<"made">>, seen()))
    end).

program_that_nobody_waits_for(_) ->
    on_a_loop(fun(Context, Loop) ->
        true = erlang:suspend_process(Loop),
        Ref = py:async_call(Context, events_fixture, opening, [<<"/bin/cat">>]),
        wait_seen(<<"opening">>),
        ok = py:async_cancel(Ref),
        {error, cancelled} = py:async_await(Ref),
        true = erlang:resume_process(Loop),
        _ = sys:get_state(Loop),
        ?assertEqual([], ports(Loop)),
        ?assertNot(lists:member(<<"made">>, seen()))
    end).

dead_manager_answers_all(_) ->
    on_a_loop(fun(Context, Loop) ->
        Ref = py:async_call(Context, events_fixture, result, [py_callback_id:next()]),
        {ok, 1} = py:async_await(py:async_call(Context, builtins, int, [1])),
        Monitor = monitor(process, Loop),
        kill_manager(),
        receive {'DOWN', Monitor, process, Loop, _} -> ok end,
        {error, {'ErlangError', _}} = py:async_await(Ref),
        {ok, Next} = py_event_loop_proc:of_context(Context),
        ?assertNotEqual(Loop, Next)
    end).

dead_manager_before_there_is_an_event_process(_) ->
    Context = py_test_lib:context(#{}),
    Manager = whereis(py_event_loops),
    true = erlang:suspend_process(Manager),
    Ref = py:async_call(Context, events_fixture, result, [py_callback_id:next()]),
    {ok, 1} = py:async_await(py:async_call(Context, builtins, int, [1])),
    kill_manager(),
    {error, {'ErlangError', _}} = py:async_await(Ref),
    {ok, _} = py_event_loop_proc:of_context(Context),
    py_test_lib:drop(Context).

kill_manager() ->
    Manager = whereis(py_event_loops),
    exit(Manager, kill),
    py_test_lib:eventually(fun() ->
        Next = whereis(py_event_loops),
        true = is_pid(Next) andalso Next =/= Manager
    end).

fds_and_timers_outlive_the_event_process(_) ->
    outlive(fun(Loop) -> exit(Loop, kill) end).

fds_and_timers_outlive_the_manager(_) ->
    outlive(fun(_) -> kill_manager() end).

outlive(Kill) ->
    on_a_loop(fun(Context, Loop) ->
        Ref = py:async_call(Context, events_fixture, fd_and_timers, []),
        wait_seen(<<"waits">>),
        Monitor = monitor(process, Loop),
        Kill(Loop),
        receive {'DOWN', Monitor, process, Loop, _} -> ok end,
        {ok, _} = py:async_await(py:async_call(Context, events_fixture, let_go, [])),
        {ok, <<"go">>} = py:async_await(Ref)
    end).

timers_go_on_without_a_manager(_) ->
    on_a_loop(fun(Context, _) ->
        Ref = py:async_call(Context, events_fixture, fd_and_timers, []),
        wait_seen(<<"waits">>),
        ok = supervisor:terminate_child(erlang_python_sup, py_event_loops),
        {ok, <<"slept">>} = py:async_await(py:async_call(Context, events_fixture, nap, [0.2])),
        {ok, none} = py:async_await(py:async_call(Context, events_fixture, let_go, [])),
        {error, {'RuntimeError', _}} = py_event_loop_proc:of_context(Context),
        {ok, _} = supervisor:restart_child(erlang_python_sup, py_event_loops),
        {ok, <<"go">>} = py:async_await(Ref),
        {ok, _} = py_event_loop_proc:of_context(Context)
    end).

event_process_ends_with_its_loop(_) ->
    on_a_loop(fun(Context, Loop) ->
        Monitor = monitor(process, Loop),
        ok = py_context:stop_loop(Context, 0),
        receive {'DOWN', Monitor, process, Loop, Why} -> normal = Why end
    end).

attach_to_a_stopped_loop(_) ->
    on_a_loop(fun(Context, Loop) ->
        ok = py_context:stop_loop(Context, 0),
        {_, Server} = pair(),
        {error, _} = py_event_loop_proc:attach(Loop, Server, {events_fixture, 'Echo', []})
    end).

sockets_by_the_hundred(_) ->
    Loop = events(),
    _ = py_test_lib:parallel(200, fun(I) ->
        {Client, Server} = pair(),
        ok = py_event_loop_proc:attach(Loop, Server, {events_fixture, 'Echo', []}),
        Data = integer_to_binary(I),
        [begin
            ok = gen_tcp:send(Client, Data),
            {ok, Data} = gen_tcp:recv(Client, byte_size(Data), 60000)
         end || _ <- lists:seq(1, 10)],
        gen_tcp:close(Client)
    end),
    py_test_lib:eventually(fun() -> 200 = length([L || {<<"lost">>, _} = L <- seen()]) end).
