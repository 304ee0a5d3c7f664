%% Contexts by isolation: what a call costs one caller, and what two contexts that compute at once take.
-module(py_bench_isolation).

-export([benches/0]).

-define(CALLS, #{thread => 50000, interpreter => 50000, node => 3000}).

-spec benches() -> [py_bench_lib:bench()].
benches() ->
    lists:append([
        [
            bench("_call_1", Isolation, fun() -> call(Isolation) end),
            bench("_call_1_latency", Isolation, fun() -> latency(Isolation) end),
            bench("_compute_2", Isolation, fun() -> compute(Isolation) end)
        ]
     || Isolation <- [thread, interpreter, node]
    ]).

-spec bench(string(), atom(), fun(() -> term())) -> py_bench_lib:bench().
bench(What, Isolation, Run) ->
    Bench = #{name => iolist_to_binary(["isolation_", atom_to_list(Isolation), What]), run => Run},
    case ready(Isolation) of
        ok -> Bench;
        Why -> Bench#{skip => Why}
    end.

-spec ready(atom()) -> ok | string().
ready(interpreter) ->
    [Major, Minor | _] = string:lexemes(binary_to_list(py_nif:python_version()), "."),
    case {list_to_integer(Major), list_to_integer(Minor)} of
        Version when Version >= {3, 13} -> ok;
        _ -> "own interpreters need Python 3.13"
    end;
ready(_) ->
    ok.

-spec with_contexts(pos_integer(), atom(), fun(([pid()]) -> Result)) -> Result.
with_contexts(N, Isolation, Fun) ->
    _ = Isolation =/= node orelse py_bench_lib:distributed(),
    Contexts = [element(2, {ok, _} = py_context:start(#{isolation => Isolation})) || _ <- lists:seq(1, N)],
    try
        Fun(Contexts)
    after
        [py_context:stop(C) || C <- Contexts]
    end.

-spec call(atom()) -> float().
call(Isolation) ->
    N = maps:get(Isolation, ?CALLS),
    with_contexts(1, Isolation, fun([C]) ->
        py_bench_lib:per_op(N, fun() -> [sqrt(C) || _ <- lists:seq(1, N)] end)
    end).

-spec latency(atom()) -> map().
latency(Isolation) ->
    with_contexts(1, Isolation, fun([C]) ->
        py_bench_lib:latency_stats(py_bench_lib:latencies(maps:get(Isolation, ?CALLS), fun() -> sqrt(C) end))
    end).

-spec sqrt(pid()) -> {ok, float()}.
sqrt(C) ->
    {ok, 4.0} = py:call(C, math, sqrt, [16.0]).

%% Seconds until two contexts have done the same work, at once.
-spec compute(atom()) -> float().
compute(Isolation) ->
    with_contexts(2, Isolation, fun(Contexts) ->
        [ok = py:exec(C, <<"def bench_compute(n):\n    x = 0\n    for i in range(n): x += i * i\n    return x">>) || C <- Contexts],
        py_bench_lib:per_op(1, fun() ->
            Refs = [py:spawn_call(C, '__main__', bench_compute, [1000000]) || C <- Contexts],
            [{ok, 333332833333500000} = py:await(R) || R <- Refs]
        end)
    end).
