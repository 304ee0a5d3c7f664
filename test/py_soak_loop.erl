%% An hour's worth of loop work squeezed into minutes, which must leave nothing behind: scripts/soak. The busy hour is
%% one of 20 connections, one connection by TLS, 500 timers and 20 cancels a second, and of async calls, cancels,
%% streams and deaths from Erlang beside them.
-module(py_soak_loop).

-export([main/3]).
-export([log/2]).

-define(CONNECTIONS, 60 * 20).
-define(SECURE, 60).
-define(TIMERS, 60 * 500).
-define(CANCELS, 60 * 20).
-define(CALLS, 1000).
-define(MINUTE_MS, 300000).

%% How much each figure may grow after the warm-up, the first fifth. KB for memory.
-define(LIMITS, [
    {fds, 0}, {threads, 2}, {tasks, 0}, {handles, 0}, {transports, 0}, {objects, 500}, {blocks, 2000}, {processes, 2}, {warnings, 0},
    {beam_kb, 4096}, {rss_kb, 8192}
]).

%% Minutes of that hour on a loop with that backend, native or beam. Dir is where soak_loop.py is.
-spec main(file:filename(), atom(), pos_integer()) -> no_return().
main(Dir, Backend, Minutes) ->
    {ok, _} = application:ensure_all_started(erlang_python),
    %% The emulator logs a bad fd, or one that is taken from another ("stealing control"), as an error.
    Warnings = counters:new(1, []),
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => warning, config => Warnings}),
    Temporary = filename:join("/tmp", "py_soak_loop_" ++ os:getpid()),
    ok = filelib:ensure_path(Temporary),
    {Key, Root} = py_demo_http:certificate(tls, Temporary),
    ok = py:register_function(soak_double, fun(N) -> 2 * N end),
    {ok, C} = py_context:start(#{sys_path => [Dir], preload => [soak_loop]}),
    {ok, Soak} = py:call(C, soak_loop, 'Soak', [Backend, Key, Root]),
    ok = file:del_dir_r(Temporary),
    Head = "~n~b minutes on the ~p backend, each of ~b connections, ~b by TLS, ~b timers, ~b cancels, ~b calls~n~n",
    io:format(Head, [
        Minutes, Backend, ?CONNECTIONS, ?SECURE, ?TIMERS, ?CANCELS, ?CALLS
    ]),
    io:format("~-8s", [minute]),
    [io:format("~11s", [Name]) || {Name, _} <- ?LIMITS],
    io:nl(),
    Step = max(1, Minutes div 10),
    Begin = erlang:monotonic_time(millisecond),
    Seen = [
        begin
            ok = minute(C, Soak),
            report(Minute, Step, C, Soak, Warnings)
        end
     || Minute <- lists:seq(1, Minutes)
    ],
    Seconds = (erlang:monotonic_time(millisecond) - Begin) / 1000,
    Figures = [Figure || #{} = Figure <- Seen],
    First = (lists:nth(1 + length(Figures) div 5, Figures))#{warnings := 0},
    Last = lists:last(Figures),
    Growth = maps:from_list([{Name, maps:get(Name, Last) - maps:get(Name, First)} || {Name, _} <- ?LIMITS]),
    Grown = [{Name, maps:get(Name, Growth)} || {Name, Limit} <- ?LIMITS, maps:get(Name, Growth) > Limit],
    io:format("~n~.1f s for ~b connections, ~b timers, ~b cancels. ", [
        Seconds, Minutes * (?CONNECTIONS + ?SECURE), Minutes * ?TIMERS, Minutes * ?CANCELS
    ]),
    {ok, none} = py:call(C, Soak, close, []),
    ok = py_context:stop(C),
    case Grown of
        [] -> io:format("Nothing grew after the warm-up.~n"), halt(0);
        _ -> io:format("Grew after the warm-up: ~p~n", [Grown]), halt(1)
    end.

%% A handler of `logger` that counts what the emulator itself says.
-spec log(logger:log_event(), logger:handler_config()) -> ok.
log(#{meta := #{error_logger := #{emulator := true}}}, #{config := Warnings}) -> counters:add(Warnings, 1, 1);
log(_Event, _Config) -> ok.

-spec minute(pid(), py:ref()) -> ok.
minute(C, Soak) ->
    Work = py:spawn_call(C, Soak, run, [?CONNECTIONS, ?SECURE, ?TIMERS, ?CANCELS]),
    Calls = ?CALLS div 4,
    Numbers = lists:seq(1, Calls),
    {ok, Numbers} = py:async_gather(C, [{soak_loop, nap, [N]} || N <- Numbers]),
    Doubled = [2 * N || N <- Numbers],
    {ok, Doubled} = py:async_gather(C, [{soak_loop, ask, [N]} || N <- Numbers], #{concurrency => 20}),
    Sleepers = [py:async_call(C, soak_loop, sleeper, []) || _ <- Numbers],
    [ok = py:async_cancel(Ref) || Ref <- Sleepers],
    [{error, cancelled} = py:async_await(Ref) || Ref <- Sleepers],
    _ = py_test_lib:parallel(Calls div 5, fun(N) ->
        {ok, Stream} = py:stream_start(C, soak_loop, count, [20], #{credit => 10}),
        receive {py_stream, Stream, {data, 0}} -> ok end,
        _ = py:async_call(C, soak_loop, sleeper, []),
        N rem 2 =:= 0 andalso py:stream_cancel(Stream)
        %% the others, and the call, end with this process
    end),
    {ok, none} = py:await(Work, ?MINUTE_MS),
    ok.

-spec report(pos_integer(), pos_integer(), pid(), py:ref(), counters:counters_ref()) ->
    #{atom() => integer()} | skipped.
report(Minute, Step, _C, _Soak, _Warnings) when Minute rem Step =/= 0 ->
    skipped;
report(Minute, _Step, C, Soak, Warnings) ->
    py_test_lib:eventually(fun() ->
        _ = [erlang:garbage_collect(P) || P <- processes()],
        %% the one ref is the soak itself
        #{requests := 0, refs := 1} = py_nif:counters()
    end),
    {ok, Python} = py:call(C, Soak, figures, []),
    {ok, Status} = file:read_file("/proc/self/status"),
    {match, [Rss]} = re:run(Status, "VmRSS:\\s*(\\d+)", [{capture, all_but_first, list}]),
    Figures = maps:merge(maps:from_list([{binary_to_atom(Name), N} || {Name, N} <- maps:to_list(Python)]), #{
        processes => length(processes()),
        warnings => counters:get(Warnings, 1),
        beam_kb => erlang:memory(total) div 1024,
        rss_kb => list_to_integer(Rss)
    }),
    io:format("~-8b", [Minute]),
    [io:format("~11b", [maps:get(Name, Figures)]) || {Name, _} <- ?LIMITS],
    io:nl(),
    Figures.
