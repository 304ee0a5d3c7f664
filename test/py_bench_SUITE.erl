%% The benches' own arithmetic, and that each bench runs and gives a rate.
-module(py_bench_SUITE).

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([percentiles_are_ranks/1]).
-export([median_of_odd_and_even/1]).
-export([p_value_tells_apart/1]).
-export([single_benches_give_rates/1]).
-export([json_is_read_back_and_compared/1]).
-export([a_wrong_answer_fails_the_bench/1]).
-export([the_table_shows_all_magnitudes/1]).
-export([an_absent_erlport_is_skipped_by_name/1]).
-export([an_erlport_that_fails_is_skipped_by_name/1]).

-spec suite() -> [{timetrap, {minutes, pos_integer()}}].
suite() ->
    [{timetrap, {minutes, 3}}].

-spec all() -> [atom()].
all() ->
    py_test_lib:cases(?MODULE).

-spec init_per_suite([{atom(), term()}]) -> [{atom(), term()}].
init_per_suite(Config) ->
    py_test_lib:start(Config).

-spec end_per_suite([{atom(), term()}]) -> ok.
end_per_suite(Config) ->
    py_test_lib:stop(Config).

percentiles_are_ranks(_Config) ->
    #{p50 := 500, p90 := 900, p99 := 990, p999 := 999} = py_unified_bench:latency_stats(lists:seq(1, 1000)),
    #{p50 := 7, p999 := 7} = py_unified_bench:latency_stats([7]).

median_of_odd_and_even(_Config) ->
    2 = py_bench_lib:median([3, 1, 2]),
    2.5 = py_bench_lib:median([4, 1, 2, 3]).

%% Expected values by scipy.stats.mannwhitneyu(method="asymptotic").
p_value_tells_apart(_Config) ->
    near(0.012186, py_bench_lib:p_value([1, 2, 3, 4, 5], [6, 7, 8, 9, 10])),
    near(0.676104, py_bench_lib:p_value([1, 3, 5, 7, 9], [2, 4, 6, 8, 10])),
    near(1.0, py_bench_lib:p_value([1, 2, 3], [1.5, 2, 2.5])).

near(Expected, Value) ->
    case abs(Expected - Value) < 1.0e-5 of
        true -> ok;
        false -> ct:fail({Expected, Value})
    end.

single_benches_give_rates(_Config) ->
    true = py_unified_bench:bench_sync_call(100) > 0,
    true = py_unified_bench:bench_async_call(100) > 0,
    true = py_unified_bench:bench_concurrent(100, 10) > 0,
    true = py_unified_bench:bench_async_gather(2, 10) > 0.

json_is_read_back_and_compared(Config) ->
    Old = filename:join(proplists:get_value(priv_dir, Config), "old.json"),
    New = filename:join(proplists:get_value(priv_dir, Config), "new.json"),
    ok = py_unified_bench:write_json(Old, [{<<"a">>, [[1.0, 1.1, 1.2, 1.3, 1.4]]}, {<<"b">>, [[1.0, 2.0], [3.0]]}]),
    ok = py_unified_bench:write_json(New, [{<<"a">>, [[2.0, 2.2, 2.4, 2.6, 2.8]]}, {<<"b">>, [[1.5, 2.5], [2.0]]}]),
    [{<<"a">>, 2.0}] = py_unified_bench:compare(Old, New).

a_wrong_answer_fails_the_bench(_Config) ->
    Bad = #{name => <<"bad">>, run => fun() -> py_bench_lib:per_op(1, fun() -> {ok, 3} = py:eval(<<"1 + 1">>) end) end},
    {{badmatch, {ok, 2}}, _} =
        try
            py_bench_lib:measure([Bad], 1, fun(_) -> ok end)
        catch
            error:Why -> Why
        end.

the_table_shows_all_magnitudes(_Config) ->
    Rows = [{<<"ns">>, [[5.0e-8]]}, {<<"us">>, [[5.0e-6]]}, {<<"ms">>, [[0.5]]}, {<<"x_unfairness">>, [[1.5]]}],
    ok = py_unified_bench:table(Rows, []).

an_absent_erlport_is_skipped_by_name(Config) ->
    Skipped = erlport_benches(proplists:get_value(priv_dir, Config)),
    ["ErlPort is not on the code path (ERLPORT=dir)"] = lists:usort([Why || #{skip := Why} <- Skipped]).

an_erlport_that_fails_is_skipped_by_name(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "fails"),
    Ebin = filename:join([Dir, "erlport-1.0", "ebin"]),
    ok = filelib:ensure_path(Ebin),
    Modules = [erlport, python],
    [ok = file:write_file(filename:join(Ebin, atom_to_list(M) ++ ".beam"), failing(M)) || M <- Modules],
    try
        Skipped = erlport_benches(Dir),
        [Why] = lists:usort([Why || #{skip := Why} <- Skipped]),
        {match, _} = re:run(Why, "^ErlPort does not work with .*: no_python$")
    after
        true = code:del_path(Ebin),
        [true = code:delete(M) || M <- Modules]
    end.

erlport_benches(Dir) ->
    Before = os:getenv("ERLPORT", ""),
    true = os:putenv("ERLPORT", Dir),
    Benches = [B || #{name := <<"other_erlport_", _/binary>>} = B <- py_bench_others:benches()],
    true = os:putenv("ERLPORT", Before),
    7 = length(Benches),
    Benches.

%% Code of a module whose start/1 gives an error.
failing(Module) ->
    Error = {tuple, 1, [{atom, 1, error}, {atom, 1, no_python}]},
    Start = {function, 1, start, 1, [{clause, 1, [{var, 1, '_'}], [], [Error]}]},
    {ok, Module, Code} = compile:forms([{attribute, 1, module, Module}, {attribute, 1, export, [{start, 1}]}, Start]),
    Code.
