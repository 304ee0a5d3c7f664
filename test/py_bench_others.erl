%% The alternatives, where they are at hand: ErlPort, a worker on a port that speaks JSON, an HTTP call to uvicorn. What
%% is not there is skipped by name.
-module(py_bench_others).

-export([benches/0]).

-define(PORT_WORKER, "
import json, struct, sys, math
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
while True:
    head = read(4)
    if not head: break
    name, args = json.loads(read(struct.unpack('>I', head)[0]))
    data = json.dumps(getattr(math, name)(*args)).encode()
    write(struct.pack('>I', len(data)) + data)
    sys.stdout.buffer.flush()
").

-define(HTTP_APP, "
import json, math
async def app(scope, receive, send):
    if scope['type'] != 'http': return
    body = (await receive())['body']
    name, args = json.loads(body)
    data = json.dumps(getattr(math, name)(*args)).encode()
    await send({'type': 'http.response.start', 'status': 200, 'headers': [(b'content-length', str(len(data)).encode())]})
    await send({'type': 'http.response.body', 'body': data})
import uvicorn, sys
uvicorn.run(app, host='127.0.0.1', port=int(sys.argv[1]), log_level='error')
").

-spec benches() -> [py_bench_lib:bench()].
benches() ->
    port() ++ erlport() ++ http().

%% ---- a port ----

-spec port() -> [py_bench_lib:bench()].
port() ->
    [#{name => <<"other_port_json_1">>, run => fun() -> port_calls(10000) end}].

-spec port_calls(pos_integer()) -> float().
port_calls(N) ->
    Port = open_port({spawn_executable, python()}, [{args, ["-c", ?PORT_WORKER]}, {packet, 4}, binary]),
    ok = port_loop(Port, N div 10),
    Seconds = py_bench_lib:per_op(N, fun() -> port_loop(Port, N) end),
    true = port_close(Port),
    Seconds.

-spec port_loop(port(), non_neg_integer()) -> ok.
port_loop(_Port, 0) ->
    ok;
port_loop(Port, N) ->
    true = port_command(Port, <<"[\"sqrt\", [16.0]]">>),
    receive
        {Port, {data, <<"4.0">>}} -> port_loop(Port, N - 1)
    end.

%% ---- ErlPort ----

%% Its Erlang process and its Python process serve one call at a time; hence the pool.
-spec erlport() -> [py_bench_lib:bench()].
erlport() ->
    Benches = [
        #{name => <<"other_erlport_1">>, run => fun() -> erlport_calls(10000, 1, 1) end},
        #{name => <<"other_erlport_10">>, run => fun() -> erlport_calls(20000, 10, 1) end},
        #{name => <<"other_erlport_100">>, run => fun() -> erlport_calls(20000, 100, 1) end},
        #{name => <<"other_erlport_1000">>, run => fun() -> erlport_calls(20000, 1000, 1) end},
        #{name => <<"other_erlport_100_pool_of_4">>, run => fun() -> erlport_calls(20000, 100, 4) end},
        #{name => <<"other_erlport_binary_1k">>, run => fun() -> erlport_payload(5000, binary:copy(<<"x">>, 1024)) end},
        #{name => <<"other_erlport_ints_1000">>, run => fun() -> erlport_payload(500, lists:seq(1, 1000)) end}
    ],
    case erlport_works() of
        true -> Benches;
        {false, Why} -> [B#{skip => Why} || B <- Benches]
    end.

%% ERLPORT names ErlPort's directory, or one that holds it. The former must itself be called erlport or erlport-VERSION:
%% ErlPort looks for its priv directory by code:priv_dir/1.
-spec erlport_works() -> true | {false, Why :: string()}.
erlport_works() ->
    Given = [Dir || Dir <- [os:getenv("ERLPORT", "")], Dir =/= ""],
    Ebins = [filename:join([Dir, Below, "ebin"]) || Dir <- Given, Below <- ["", "erlport", "erlport-*"]],
    ok = code:add_pathsz(lists:append([filelib:wildcard(Ebin) || Ebin <- Ebins])),
    case code:ensure_loaded(erlport) of
        {module, _} -> erlport_answers();
        {error, _} -> {false, "ErlPort is not on the code path (ERLPORT=dir)"}
    end.

-spec erlport_answers() -> true | {false, Why :: string()}.
erlport_answers() ->
    try with_erlport(1, fun({Python}) -> erlport_sqrt(Python) end) of
        ok -> true
    catch
        _:Why -> {false, lists:flatten(io_lib:format("ErlPort does not work with ~ts: ~0tp", [python(), Why]))}
    end.

%% Gives Fun Count instances, each a Python process, that have answered.
-spec with_erlport(pos_integer(), fun((tuple()) -> Result)) -> Result.
with_erlport(Count, Fun) ->
    Module = python, % ErlPort's
    Pool = [started(Module:start([{python, python()}])) || _ <- lists:seq(1, Count)],
    _ = [erlport_sqrt(Python) || Python <- Pool],
    Result = Fun(list_to_tuple(Pool)),
    lists:foreach(
        fun(Python) ->
            Monitor = monitor(process, Python),
            ok = Module:stop(Python),
            receive
                {'DOWN', Monitor, process, Python, normal} -> ok
            end
        end,
        Pool
    ),
    Result.

-spec started({ok, pid()} | {error, term()}) -> pid().
started({ok, Python}) -> Python;
started({error, Why}) -> error(Why).

-spec erlport_sqrt(pid()) -> ok.
erlport_sqrt(Python) ->
    4.0 = erlport_call(Python, math, sqrt, [16.0]),
    ok.

-spec erlport_call(pid(), atom(), atom(), [term()]) -> term().
erlport_call(Python, PyModule, Function, Args) ->
    Module = python,
    Module:call(Python, PyModule, Function, Args).

%% Seconds of a call, N calls by Callers, each of which keeps to one of Count instances.
-spec erlport_calls(pos_integer(), pos_integer(), pos_integer()) -> float().
erlport_calls(N, Callers, Count) ->
    with_erlport(Count, fun(Pool) ->
        Run = fun(Each) ->
            Turn = atomics:new(1, []),
            {Seconds, _} = py_bench_lib:in_parallel(Callers, fun() ->
                Python = element(atomics:add_get(Turn, 1, 1) rem Count + 1, Pool),
                py_bench_lib:repeat(Each, fun() -> erlport_sqrt(Python) end)
            end),
            Seconds / (Each * Callers)
        end,
        _ = Run(max(1, N div Callers div 10)),
        Run(N div Callers)
    end).

%% There and back through a Python identity.
-spec erlport_payload(pos_integer(), term()) -> float().
erlport_payload(N, Term) ->
    with_erlport(1, fun({Python}) ->
        Source = <<"def bench_identity(x): return x\nimport builtins\nbuiltins.bench_identity = bench_identity">>,
        undefined = erlport_call(Python, builtins, exec, [Source]),
        Call = fun() -> erlport_call(Python, builtins, bench_identity, [Term]) end,
        Term = Call(),
        py_bench_lib:repeat(N div 10, Call),
        py_bench_lib:per_op(N, fun() -> py_bench_lib:repeat(N, Call) end)
    end).

%% ---- HTTP ----

-spec http() -> [py_bench_lib:bench()].
http() ->
    Name = <<"other_http_uvicorn_1">>,
    case run_status(["-c", "import uvicorn"]) of
        0 -> [#{name => Name, run => fun() -> http_calls(2000) end}];
        _ -> [#{name => Name, run => fun() -> 0.0 end, skip => "uvicorn is not in the environment of " ++ python()}]
    end.

-spec http_calls(pos_integer()) -> float().
http_calls(N) ->
    {ok, _} = application:ensure_all_started(inets),
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}, {reuseaddr, true}]),
    {ok, Number} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port = open_port({spawn_executable, python()}, [{args, ["-c", ?HTTP_APP, integer_to_list(Number)]}, exit_status]),
    {os_pid, Pid} = erlang:port_info(Port, os_pid),
    Url = "http://127.0.0.1:" ++ integer_to_list(Number) ++ "/",
    Call = fun() -> httpc:request(post, {Url, [], "application/json", <<"[\"sqrt\", [16.0]]">>}, [], [{body_format, binary}]) end,
    ok = wait_for(Call, 100),
    Seconds = py_bench_lib:per_op(N, fun() -> [{ok, {_, _, <<"4.0">>}} = Call() || _ <- lists:seq(1, N)] end),
    _ = os:cmd("kill " ++ integer_to_list(Pid)),
    receive
        {Port, {exit_status, _}} -> Seconds
    end.

-spec wait_for(fun(() -> {ok | error, term()}), non_neg_integer()) -> ok.
wait_for(Call, Left) when Left > 0 ->
    case Call() of
        {ok, _} ->
            ok;
        {error, _} ->
            timer:sleep(100),
            wait_for(Call, Left - 1)
    end.

%% ---- Python ----

-spec python() -> string().
python() ->
    case os:getenv("BENCH_PYTHON") of
        false -> binary_to_list(py_nif:build_python());
        Path -> Path
    end.

-spec run_status([string()]) -> non_neg_integer().
run_status(Args) ->
    Port = open_port({spawn_executable, python()}, [{args, Args}, exit_status, stderr_to_stdout]),
    status(Port).

-spec status(port()) -> non_neg_integer().
status(Port) ->
    receive
        {Port, {exit_status, Status}} -> Status;
        {Port, {data, _}} -> status(Port)
    end.
