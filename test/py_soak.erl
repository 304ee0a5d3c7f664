%% A long run of calls of all kinds that watches the size of the process: scripts/soak.
-module(py_soak).

-export([main/1]).

-define(WARM, 0.1).
-define(CALLERS, 8).
-define(SLACK_KB, 4096).

%% Calls in all; growth beyond the slack after the warm-up ends the node with status 1.
-spec main(pos_integer()) -> no_return().
main(Calls) ->
    {ok, _} = application:ensure_all_started(erlang_python),
    C = py_leak_SUITE:prepared(#{}),
    Kinds = py_leak_SUITE:calls(),
    Rounds = max(1, Calls div length(Kinds)),
    Warm = max(1, trunc(Rounds * ?WARM)),
    run(C, Kinds, Warm),
    First = figures(C),
    report(Warm * length(Kinds), First),
    Last = lists:foldl(
        fun(Part, _) ->
            run(C, Kinds, (Rounds - Warm) div 9),
            Figures = figures(C),
            report((Warm + Part * ((Rounds - Warm) div 9)) * length(Kinds), Figures),
            Figures
        end,
        First,
        lists:seq(1, 9)
    ),
    Growth = maps:get(rss_kb, Last) - maps:get(rss_kb, First),
    io:format("~nafter the warm-up the process grew by ~b KB~n", [Growth]),
    halt(
        case Growth =< ?SLACK_KB of
            true -> 0;
            false -> 1
        end
    ).

run(C, Kinds, Rounds) ->
    _ = py_test_lib:parallel(?CALLERS, fun(I) ->
        [ok = py_leak_SUITE:round(C, Kinds) || _ <- lists:seq(I, Rounds, ?CALLERS)]
    end),
    ok.

figures(C) ->
    py_leak_SUITE:settle(),
    {ok, Blocks} = py:call(C, '__main__', blocks, []),
    {ok, Status} = file:read_file("/proc/self/status"),
    {match, [Rss]} = re:run(Status, "VmRSS:\\s*(\\d+)", [{capture, all_but_first, list}]),
    #{rss_kb => list_to_integer(Rss), blocks => Blocks, beam_kb => erlang:memory(total) div 1024}.

report(Done, #{rss_kb := Rss, blocks := Blocks, beam_kb := Beam}) ->
    io:format("~10b calls  ~8b KB resident  ~8b KB in the emulator  ~8b Python blocks~n", [Done, Rss, Beam, Blocks]).
