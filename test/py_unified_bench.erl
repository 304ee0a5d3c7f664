%% All benches of the Erlang side, ours and the alternatives, in one run:
%%
%%     py_unified_bench:run_all().                                  %% or: make bench
%%     py_unified_bench:run_all(#{groups => [calls], samples => 5, vms => 3, json => "calls.json"}).
%%     py_unified_bench:compare("old.json", "new.json").
%%
%% Each VM is a fresh peer: on a small machine one VM start differs from the next more than two samples in one VM do. A
%% run fails when an answer is wrong. The JSON is pyperf's: a VM is one of its runs.
-module(py_unified_bench).

-export([run_all/0]).
-export([run_all/1]).
-export([bench_sync_call/1]).
-export([bench_async_call/1]).
-export([bench_concurrent/2]).
-export([bench_async_gather/2]).
-export([latency_stats/1]).
-export([compare/2]).
-export([in_vm/2]).
-export([write_json/2]).
-export([table/2]).

-type group() :: calls | payloads | async | streams | callbacks | loops | isolation | others.
-type options() :: #{groups => [group()], samples => pos_integer(), vms => pos_integer(), json => file:filename()}.
-type results() :: #{values := [{binary(), [[float()]]}], skipped := [{binary(), string()}]}.

-define(GROUPS, [calls, payloads, async, streams, callbacks, loops, isolation, others]).

-spec run_all() -> results().
run_all() ->
    run_all(#{}).

-spec run_all(options()) -> results().
run_all(Options) ->
    Groups = maps:get(groups, Options, ?GROUPS),
    Samples = maps:get(samples, Options, 5),
    Vms = maps:get(vms, Options, 3),
    Runs = [fresh_vm(Vm, Vms, Groups, Samples) || Vm <- lists:seq(1, Vms)],
    Names = [Name || {Name, _} <- element(1, hd(Runs))],
    Values = [{Name, [proplists:get_value(Name, Vs) || {Vs, _} <- Runs]} || Name <- Names],
    {_, Skipped} = hd(Runs),
    table(Values, Skipped),
    case Options of
        #{json := File} -> ok = write_json(File, Values);
        #{} -> ok
    end,
    #{values => Values, skipped => Skipped}.

%% ---- single benches ----

%% Calls/s of one caller, in this VM.
-spec bench_sync_call(pos_integer()) -> float().
bench_sync_call(N) ->
    started(),
    1 / py_bench_cases:sync_call(N).

%% async_call and await, calls/s of one caller.
-spec bench_async_call(pos_integer()) -> float().
bench_async_call(N) ->
    started(),
    1 / py_bench_cases:async_call(N).

%% Calls/s of Concurrency callers, N calls in all.
-spec bench_concurrent(pos_integer(), pos_integer()) -> float().
bench_concurrent(N, Concurrency) ->
    started(),
    #{time := Seconds} = py_bench_cases:concurrent(N, Concurrency),
    1 / Seconds.

%% Coroutines/s in batches of BatchSize.
-spec bench_async_gather(pos_integer(), pos_integer()) -> float().
bench_async_gather(Batches, BatchSize) ->
    started(),
    1 / py_bench_cases:gather(Batches, BatchSize).

-spec latency_stats([number()]) -> #{p50 := number(), p90 := number(), p99 := number(), p999 := number()}.
latency_stats(Latencies) ->
    py_bench_lib:latency_stats(Latencies).

-spec started() -> ok.
started() ->
    {ok, _} = application:ensure_all_started(erlang_python),
    ok.

%% ---- a VM ----

-spec fresh_vm(pos_integer(), pos_integer(), [group()], pos_integer()) -> {py_bench_lib:values(), [{binary(), string()}]}.
fresh_vm(Vm, Vms, Groups, Samples) ->
    {ok, Peer, _} = peer:start_link(#{connection => standard_io, args => ["-pa" | code:get_path()], wait_boot => 60000}),
    io:format("VM ~b of ~b~n", [Vm, Vms]),
    Result = peer:call(Peer, ?MODULE, in_vm, [Groups, Samples], infinity),
    ok = peer:stop(Peer),
    Result.

%% What the peer does.
-spec in_vm([group()], pos_integer()) -> {py_bench_lib:values(), [{binary(), string()}]}.
in_vm(Groups, Samples) ->
    started(),
    py_bench_lib:measure(lists:append([benches(G) || G <- Groups]), Samples, fun(Name) -> io:format("  ~ts~n", [Name]) end).

-spec benches(group()) -> [py_bench_lib:bench()].
benches(calls) -> py_bench_cases:calls();
benches(payloads) -> py_bench_cases:payloads();
benches(async) -> py_bench_cases:async() ++ py_bench_async:benches();
benches(streams) -> py_bench_cases:streams();
benches(callbacks) -> py_bench_callbacks:benches();
benches(loops) -> py_bench_cases:loops();
benches(isolation) -> py_bench_isolation:benches();
benches(others) -> py_bench_others:benches().

%% ---- for people ----

-spec table([{binary(), [[float()]]}], [{binary(), string()}]) -> ok.
table(Values, Skipped) ->
    io:format("~n~-40s~14s~14s~12s~10s~n", ["", "median", "rate/s", "min", "max"]),
    lists:foreach(
        fun({Name, Runs}) ->
            All = lists:append(Runs),
            Median = py_bench_lib:median([py_bench_lib:median(Run) || Run <- Runs]),
            case is_ratio(Name) of
                true ->
                    io:format("~-40ts~14.3f~14s~12.3f~10.3f~n", [Name, Median, "", lists:min(All), lists:max(All)]);
                false ->
                    io:format("~-40ts~14ts~14b~12ts~10ts~n", [
                        Name, time(Median), round(1 / Median), time(lists:min(All)), time(lists:max(All))
                    ])
            end
        end,
        Values
    ),
    [io:format("~ts: skipped, ~ts~n", [Name, Why]) || {Name, Why} <- Skipped],
    ok.

-spec is_ratio(binary()) -> boolean().
is_ratio(Name) ->
    binary:longest_common_suffix([Name, <<"unfairness">>]) =:= byte_size(<<"unfairness">>).

-spec time(float()) -> string().
time(S) when S < 1.0e-6 -> lists:flatten(io_lib:format("~.1f ns", [S * 1.0e9]));
time(S) when S < 1.0e-3 -> lists:flatten(io_lib:format("~.2f us", [S * 1.0e6]));
time(S) -> lists:flatten(io_lib:format("~.2f ms", [S * 1.0e3])).

%% ---- for machines ----

-spec write_json(file:filename(), [{binary(), [[float()]]}]) -> ok.
write_json(File, Values) ->
    started(),
    Benchmarks = [
        #{
            metadata => #{name => Name, unit => case is_ratio(Name) of true -> integer; false -> second end},
            runs => [#{metadata => #{}, values => Run} || Run <- Runs]
        }
     || {Name, Runs} <- Values
    ],
    Metadata = #{
        otp => list_to_binary(erlang:system_info(otp_release)),
        python => py_nif:python_version(),
        schedulers => erlang:system_info(schedulers),
        unit => second
    },
    {ok, Text} = py:call(json, dumps, [#{version => <<"1.0">>, metadata => Metadata, benchmarks => Benchmarks}], #{indent => 1}),
    file:write_file(File, Text).

-spec read_json(file:filename()) -> #{binary() => [float()]}.
read_json(File) ->
    started(),
    {ok, Text} = file:read_file(File),
    {ok, #{<<"benchmarks">> := Benchmarks}} = py:call(json, loads, [Text]),
    maps:from_list([
        {Name, lists:append([Values || #{<<"values">> := Values} <- Runs])}
     || #{<<"metadata">> := #{<<"name">> := Name}, <<"runs">> := Runs} <- Benchmarks
    ]).

%% Prints how New differs from Old: the ratio of medians and whether it is significant (Mann-Whitney U, p < 0.05). Gives
%% the significant ones, slower first.
-spec compare(file:filename(), file:filename()) -> [{binary(), Ratio :: float()}].
compare(OldFile, NewFile) ->
    Old = read_json(OldFile),
    New = read_json(NewFile),
    Rows = [
        {Name, py_bench_lib:median(maps:get(Name, New)) / py_bench_lib:median(Values), py_bench_lib:p_value(Values, maps:get(Name, New))}
     || {Name, Values} <- lists:sort(maps:to_list(Old)), is_map_key(Name, New)
    ],
    lists:foreach(
        fun
            ({Name, Ratio, P}) when P >= 0.05 -> io:format("~-40ts ~6.2f  not significant (p = ~.3f)~n", [Name, Ratio, P]);
            ({Name, Ratio, P}) when Ratio > 1 -> io:format("~-40ts ~6.2f  slower (p = ~.3f)~n", [Name, Ratio, P]);
            ({Name, Ratio, P}) -> io:format("~-40ts ~6.2f  faster (p = ~.3f)~n", [Name, Ratio, P])
        end,
        Rows
    ),
    lists:reverse(lists:keysort(2, [{Name, Ratio} || {Name, Ratio, P} <- Rows, P < 0.05])).
