%% py:top(): what Python does now, as text that refreshes.
-module(py_top).

-export([run/1]).

-export_type([options/0]).

%% interval: ms between two pages, default 1000. count: pages, default 20. samples: looks at what runs for each page.
-type options() :: #{interval => pos_integer(), count => pos_integer() | infinity, samples => pos_integer()}.

-type totals() :: #{pid() => {Calls :: non_neg_integer(), Name :: atom()}}.

-spec run(options()) -> ok.
run(Options) ->
    Interval = maps:get(interval, Options, 1000),
    Samples = maps:get(samples, Options, 20),
    pages(maps:get(count, Options, 20), Interval, Samples, totals()).

-spec pages(non_neg_integer() | infinity, pos_integer(), pos_integer(), totals()) -> ok.
pages(0, _, _, _) ->
    ok;
pages(Count, Interval, Samples, Before) ->
    Busy = sample(Samples, max(1, Interval div Samples), #{}),
    After = totals(),
    io:put_chars(page(Interval, Before, After, Busy, Samples)),
    pages(less(Count), Interval, Samples, After).

-spec less(non_neg_integer() | infinity) -> non_neg_integer() | infinity.
less(infinity) -> infinity;
less(Count) -> Count - 1.

-spec infos() -> [map()].
infos() ->
    [Info || Pid <- py_context:list(), Info <- [py_context:info(Pid)], Info =/= undefined].

-spec totals() -> totals().
totals() ->
    maps:from_list([{Pid, {Calls, Name}} || #{pid := Pid, calls := Calls, name := Name} <- infos()]).

%% How often each target was seen running.
-spec sample(non_neg_integer(), pos_integer(), #{{term(), term()} => pos_integer()}) -> #{{term(), term()} => pos_integer()}.
sample(0, _, Seen) ->
    Seen;
sample(Left, Pause, Seen) ->
    timer:sleep(Pause),
    Targets = [{M, F} || #{running := Running} <- infos(), #{module := M, function := F} <- Running],
    sample(Left - 1, Pause, lists:foldl(fun(T, Acc) -> maps:update_with(T, fun(N) -> N + 1 end, 1, Acc) end, Seen, Targets)).

-spec page(pos_integer(), totals(), totals(), #{{term(), term()} => pos_integer()}, pos_integer()) -> unicode:chardata().
page(Interval, Before, After, Busy, Samples) ->
    Infos = infos(),
    #{requests := Requests, refs := Refs} = py_nif:counters(),
    [
        io_lib:format("~n-- Python ~ts  requests ~b  refs ~b  contexts ~b~n", [
            py_nif:python_version(), Requests, Refs, length(Infos)
        ]),
        io_lib:format("~-20s~10s~10s~10s~8s~12s~n", ["context", "workers", "queued", "running", "lost", "calls/s"]),
        [context_line(Info, Interval, Before, After) || Info <- Infos],
        [["busiest:", [target(T, N, Samples) || {T, N} <- busiest(Busy)], "\n"] || map_size(Busy) > 0],
        [request_line(Request) || #{running := Running} <- Infos, Request <- Running]
    ].

-spec context_line(map(), pos_integer(), totals(), totals()) -> unicode:chardata().
context_line(#{pid := Pid, name := Name, workers := Workers, queued := Queued, running := Running, lost_workers := Lost}, Interval, Before, After) ->
    {Now, _} = maps:get(Pid, After, {0, Name}),
    {Then, _} = maps:get(Pid, Before, {Now, Name}),
    Title =
        case Name of
            undefined -> io_lib:format("~p", [Pid]);
            _ -> io_lib:format("~tp", [Name])
        end,
    io_lib:format("~-20ts~10b~10b~10b~8b~12b~n", [Title, Workers, Queued, length(Running), Lost, (Now - Then) * 1000 div Interval]).

-spec busiest(#{{term(), term()} => pos_integer()}) -> [{{term(), term()}, pos_integer()}].
busiest(Busy) ->
    lists:sublist(lists:reverse(lists:keysort(2, maps:to_list(Busy))), 5).

-spec target({term(), term()}, pos_integer(), pos_integer()) -> unicode:chardata().
target({M, F}, N, Samples) ->
    io_lib:format("  ~tp:~tp ~b%", [M, F, 100 * N div Samples]).

-spec request_line(map()) -> unicode:chardata().
request_line(#{module := M, function := F, caller := Caller, age_us := Age}) ->
    io_lib:format("  ~8.1f ms  ~tp:~tp for ~p~n", [Age / 1000, M, F, Caller]).
