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

-spec erlport() -> [py_bench_lib:bench()].
erlport() ->
    Module = python, % ErlPort's
    Names = [<<"other_erlport_1">>, <<"other_erlport_100">>],
    case [D || D <- [os:getenv("ERLPORT")], is_list(D)] of
        [Dir] -> _ = code:add_pathz(filename:join(Dir, "ebin"));
        [] -> ok
    end,
    case code:ensure_loaded(Module) of
        {error, _} ->
            [#{name => Name, run => fun() -> 0.0 end, skip => "ErlPort is not on the code path (ERLPORT=dir)"} || Name <- Names];
        {module, Module} ->
            [
                #{name => Name, run => fun() -> erlport_calls(Module, 20000, Callers) end}
             || {Name, Callers} <- lists:zip(Names, [1, 100])
            ]
    end.

-spec erlport_calls(module(), pos_integer(), pos_integer()) -> float().
erlport_calls(Module, N, Callers) ->
    {ok, Python} = Module:start([{python, python()}]),
    Each = N div Callers,
    {Seconds, _} = py_bench_lib:in_parallel(Callers, fun() ->
        [4.0 = Module:call(Python, math, sqrt, [16.0]) || _ <- lists:seq(1, Each)]
    end),
    ok = Module:stop(Python),
    Seconds / (Each * Callers).

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
