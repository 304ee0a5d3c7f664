%% The demonstration of calls: hundreds of Erlang processes at once have Python parse and analyse every file of its own
%% standard library. One of them runs away, one raises, one object stays in Python.
-module(py_demo_library).

-export([run/1]).

%% Dir is where demo_analysis.py is.
-spec run(file:filename()) -> ok.
run(Dir) ->
    {ok, Context} = py_context:start(#{name => library, threads => 4, sys_path => [Dir], preload => [demo_analysis]}),
    {ok, Version} = py:version(),
    io:format("Python ~ts~n", [hd(string:split(Version, "\n"))]),
    {ok, Files} = py:call(Context, demo_analysis, files, []),
    %% SQLite wants its connection used by one thread at a time: a context of one thread sees to that.
    {ok, Store} = py_context:start(#{name => store, threads => 1}),
    {ok, Table} = py:call(Store, demo_analysis, open_table, []),
    io:format("~n~b files of its standard library, one Erlang process each; results go to~n~p~n~n", [length(Files), Table]),
    runs_away(Context),
    analyse(Context, Store, Table, Files),
    show(Store, Table),
    raises(Context),
    burst(),
    py_context:stop(Store),
    py_context:stop(Context).

%% Runs beside all the others; its deadline ends it.
-spec runs_away(pid()) -> ok.
runs_away(Context) ->
    Report = self(),
    _ = spawn_link(fun() ->
        Start = erlang:monotonic_time(millisecond),
        Result = py:call(Context, demo_analysis, run_away, [], #{}, 1000),
        Report ! {ran_away, Result, erlang:monotonic_time(millisecond) - Start}
    end),
    ok.

-spec analyse(pid(), pid(), py:ref(), [binary()]) -> ok.
analyse(Context, Store, Table, Files) ->
    Report = self(),
    Start = erlang:monotonic_time(millisecond),
    lists:foreach(
        fun(File) ->
            spawn_link(fun() ->
                {ok, Found} = py:call(Context, demo_analysis, analyse, [File], #{}, infinity),
                {ok, none} = py:call(Store, demo_analysis, store, [Table, File, Found], #{}, infinity),
                Report ! stored
            end)
        end,
        Files
    ),
    progress(0, length(Files)),
    Ms = erlang:monotonic_time(millisecond) - Start,
    io:format("~n~b files in ~.1f s~n", [length(Files), Ms / 1000]),
    receive
        {ran_away, Result, After} ->
            io:format("meanwhile `while True: pass` had 1000 ms: ~p after ~b ms~n~n", [Result, After])
    end.

-spec progress(non_neg_integer(), non_neg_integer()) -> ok.
progress(All, All) ->
    bar(All, All);
progress(Done, All) ->
    Done * 20 rem All < 20 andalso bar(Done, All),
    receive
        stored -> progress(Done + 1, All)
    end.

-spec bar(non_neg_integer(), pos_integer()) -> ok.
bar(Done, All) ->
    Width = 50 * Done div All,
    io:format("\r[~ts~ts] ~b/~b", [lists:duplicate(Width, $#), lists:duplicate(50 - Width, $.), Done, All]).

-spec show(pid(), py:ref()) -> ok.
show(Store, Table) ->
    {ok, Rows} = py:call(Store, demo_analysis, largest, [Table, 12]),
    io:format("~-16s~8s~10s~11s~9s~10s~n", ["package", "files", "lines", "functions", "classes", "branches"]),
    [io:format("~-16ts~8b~10b~11b~9b~10b~n", tuple_to_list(Row)) || Row <- Rows],
    {ok, {Files, Lines, Functions, Classes, Unique}} = py:call(Store, demo_analysis, totals, [Table]),
    io:format("~-16s~8b~10b~11b~9b   (~b distinct files)~n", ["all", Files, Lines, Functions, Classes, Unique]).

-spec raises(pid()) -> ok.
raises(Context) ->
    {error, Error} = py:call(Context, demo_analysis, parse_nonsense, []),
    io:format("~nAn exception, as Python prints it:~n~ts~n", [py:format_error(Error)]).

%% How fast plain calls are, from 100 processes.
-spec burst() -> ok.
burst() ->
    Callers = 100,
    Calls = 3000,
    Start = erlang:monotonic_time(microsecond),
    Pids = [spawn_monitor(fun() -> squares(Calls) end) || _ <- lists:seq(1, Callers)],
    [receive {'DOWN', Monitor, process, Pid, normal} -> ok end || {Pid, Monitor} <- Pids],
    Us = erlang:monotonic_time(microsecond) - Start,
    io:format("~b processes called math.sqrt ~b times each: ~b calls/s~n", [Callers, Calls, Callers * Calls * 1000000 div Us]).

-spec squares(non_neg_integer()) -> ok.
squares(0) ->
    ok;
squares(N) ->
    {ok, 4.0} = py:call(math, sqrt, [16.0]),
    squares(N - 1).
