%% Sampling and statistics for the benches. A case is #{name, run}; run() does the work once, checks its answers and
%% gives seconds for one operation, or #{Suffix => Seconds} for several figures of one run (percentiles).
-module(py_bench_lib).

-export([measure/3]).
-export([distributed/0]).
-export([per_op/2]).
-export([repeat/2]).
-export([in_parallel/2]).
-export([latency_stats/1]).
-export([latencies/2]).
-export([median/1]).
-export([p_value/2]).

-export_type([bench/0]).
-export_type([values/0]).

-type figures() :: float() | #{atom() => float()}.
-type bench() :: #{name := binary(), run := fun(() -> figures()), skip => string()}.
-type values() :: [{Name :: binary(), [Seconds :: float()]}].

%% One warm-up, then Samples runs of each case. Progress(Name) is told before each case.
-spec measure([bench()], pos_integer(), fun((binary()) -> term())) -> {values(), Skipped :: [{binary(), string()}]}.
measure(Benches, Samples, Progress) ->
    Run = fun
        (#{skip := Why, name := Name}) ->
            {skip, {Name, Why}};
        (#{name := Name, run := Fun}) ->
            _ = Progress(Name),
            _ = alone(Fun),
            {ok, figures(Name, [alone(Fun) || _ <- lists:seq(1, Samples)])}
    end,
    Results = [Run(B) || B <- Benches],
    {lists:append([Figures || {ok, Figures} <- Results]), [Skipped || {skip, Skipped} <- Results]}.

%% In a process of its own: no heap is handed from one run to the next.
-spec alone(fun(() -> figures())) -> figures().
alone(Fun) ->
    {Pid, Monitor} = spawn_monitor(fun() -> exit({figures, Fun()}) end),
    receive
        {'DOWN', Monitor, process, Pid, {figures, Figures}} -> Figures;
        {'DOWN', Monitor, process, Pid, Why} -> error(Why)
    end.

-spec figures(binary(), [figures()]) -> values().
figures(Name, [Map | _] = Samples) when is_map(Map) ->
    [{<<Name/binary, $_, (atom_to_binary(Key))/binary>>, [maps:get(Key, S) || S <- Samples]} || Key <- lists:sort(maps:keys(Map))];
figures(Name, Samples) ->
    [{Name, Samples}].

%% Seconds for one of N operations that Fun does.
-spec per_op(pos_integer(), fun(() -> term())) -> float().
per_op(N, Fun) ->
    Start = erlang:monotonic_time(),
    _ = Fun(),
    seconds(erlang:monotonic_time() - Start) / N.

%% Runs Fun N times.
-spec repeat(non_neg_integer(), fun(() -> term())) -> ok.
repeat(0, _) ->
    ok;
repeat(N, Fun) ->
    _ = Fun(),
    repeat(N - 1, Fun).

%% Runs Fun in Count processes at once; they start together. Gives seconds until the last is done, and how long each
%% took.
-spec in_parallel(pos_integer(), fun(() -> term())) -> {float(), [float()]}.
in_parallel(Count, Fun) ->
    Self = self(),
    Pids = [
        spawn_link(fun() ->
            receive
                go -> ok
            end,
            Start = erlang:monotonic_time(),
            _ = Fun(),
            Self ! {done, self(), seconds(erlang:monotonic_time() - Start)}
        end)
     || _ <- lists:seq(1, Count)
    ],
    Start = erlang:monotonic_time(),
    [Pid ! go || Pid <- Pids],
    Each = [
        receive
            {done, Pid, Seconds} -> Seconds
        end
     || Pid <- Pids
    ],
    {seconds(erlang:monotonic_time() - Start), Each}.

%% How long each of N runs of Fun took, in seconds.
-spec latencies(pos_integer(), fun(() -> term())) -> [float()].
latencies(N, Fun) ->
    [per_op(1, Fun) || _ <- lists:seq(1, N)].

-spec latency_stats([number()]) -> #{p50 := number(), p90 := number(), p99 := number(), p999 := number()}.
latency_stats([_ | _] = Latencies) ->
    Sorted = list_to_tuple(lists:sort(Latencies)),
    Size = tuple_size(Sorted),
    At = fun(Share) -> element(max(1, ceil(Size * Share)), Sorted) end,
    #{p50 => At(0.5), p90 => At(0.9), p99 => At(0.99), p999 => At(0.999)}.

-spec median([number()]) -> number().
median(List) ->
    Sorted = lists:sort(List),
    Half = length(List) div 2,
    case length(List) rem 2 of
        1 -> lists:nth(Half + 1, Sorted);
        0 -> (lists:nth(Half, Sorted) + lists:nth(Half + 1, Sorted)) / 2
    end.

-spec seconds(integer()) -> float().
seconds(Native) ->
    erlang:convert_time_unit(Native, native, nanosecond) / 1.0e9.

%% Two-sided p of the Mann-Whitney U test: normal approximation with continuity correction, ties by mid-ranks.
-spec p_value([number()], [number()]) -> float().
p_value(A, B) ->
    N = length(A),
    M = length(B),
    Ranks = ranks(lists:sort([{V, a} || V <- A] ++ [{V, b} || V <- B])),
    U = lists:sum([R || {R, a} <- Ranks]) - N * (N + 1) / 2,
    Mean = N * M / 2,
    Deviation = math:sqrt(N * M * (N + M + 1) / 12),
    Z = max(0.0, abs(U - Mean) - 0.5) / Deviation,
    math:erfc(Z / math:sqrt(2)).

-spec ranks([{number(), a | b}]) -> [{float(), a | b}].
ranks(Sorted) ->
    ranks(Sorted, 1).

-spec ranks([{number(), a | b}], pos_integer()) -> [{float(), a | b}].
ranks([], _) ->
    [];
ranks([{Value, _} | _] = Sorted, From) ->
    {Same, Rest} = lists:splitwith(fun({V, _}) -> V == Value end, Sorted),
    Rank = From + (length(Same) - 1) / 2,
    [{Rank, Side} || {_, Side} <- Same] ++ ranks(Rest, From + length(Same)).

%% Makes this VM a distributed node, on the loopback, whatever the names and interfaces of the machine; false: it was.
-spec distributed() -> boolean().
distributed() ->
    case is_alive() of
        true ->
            false;
        false ->
            Epmd = filename:join([code:root_dir(), "erts-" ++ erlang:system_info(version), "bin", "epmd"]),
            _ = os:cmd("ERL_EPMD_ADDRESS=127.0.0.1 " ++ Epmd ++ " -daemon"),
            ok = application:set_env(kernel, inet_dist_use_interface, {127, 0, 0, 1}),
            {ok, _} = net_kernel:start([list_to_atom("py_bench_" ++ os:getpid() ++ "@127.0.0.1"), longnames]),
            true
    end.
