%% A project that has this application as a dependency: plain `rebar3 release` builds the NIF, and the release works
%% after it was moved, from another directory, when nothing of the build is left.
-module(py_release_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([suite/0]).
-export([moved_release/1]).

-spec suite() -> [{timetrap, {minutes, pos_integer()}}].
suite() -> [{timetrap, {minutes, 5}}].

-spec all() -> [atom()].
all() -> [moved_release].

-spec moved_release(proplists:proplist()) -> ok.
moved_release(Config) ->
    Work = filename:join(proplists:get_value(priv_dir, Config), "with a space"),
    Project = filename:join(Work, "tiny"),
    ok = write_project(Project),
    ok = copy_ourselves(filename:join([Project, "_checkouts", "erlang_python"])),
    {0, _} = run(os:find_executable("rebar3"), ["release"], Project),
    Moved = filename:join(Work, "moved"),
    ok = file:rename(filename:join([Project, "_build", "default", "rel", "tiny"]), Moved),
    ok = file:del_dir_r(Project),
    {Status, Output} = run(filename:join([Moved, "bin", "tiny"]), ["foreground"], "/"),
    ct:pal("~ts", [Output]),
    ?assertEqual(0, Status),
    Said = [string:split(Line, "=") || Line <- string:split(Output, "\n", all), string:find(Line, "=") =/= nomatch],
    ?assertEqual(<<"{ok,4.0}">>, said(<<"sqrt">>, Said)),
    ?assertEqual(<<"{ok,3.0}">>, said(<<"elsewhere">>, Said)),
    {ok, Real} = real_path(Moved),
    ?assertMatch({match, _}, re:run(said(<<"nif">>, Said), "lib/erlang_python-[0-9.]+/ebin/py_nif.beam")),
    ?assertEqual(Real, shared_prefix(Real, said(<<"nif">>, Said))),
    ?assertEqual(Real, shared_prefix(Real, said(<<"package">>, Said))),
    ok.

%% The project: one application whose start calls Python, prints what it got and stops the node.
write_project(Dir) ->
    write(filename:join(Dir, "rebar.config"),
        "{deps, [erlang_python]}.\n"
        "{relx, [{release, {tiny, \"1.0.0\"}, [tiny, sasl]}, {include_erts, true}, {include_src, false},\n"
        "        {mode, prod}]}.\n"),
    write(filename:join([Dir, "src", "tiny.app.src"]),
        "{application, tiny, [{vsn, \"1.0.0\"}, {mod, {tiny, []}}, {modules, []}, {registered, []},\n"
        "    {applications, [kernel, stdlib, erlang_python]}]}.\n"),
    write(filename:join([Dir, "src", "tiny.erl"]),
        "-module(tiny).\n"
        "-behaviour(application).\n"
        "-export([start/2, stop/1]).\n"
        "start(_, _) ->\n"
        "    io:format(\"sqrt=~0p~n\", [py:call(math, sqrt, [16.0])]),\n"
        "    {ok, Package} = py:eval(<<\"__import__('erlang').__file__\">>),\n"
        "    io:format(\"package=~ts~n\", [Package]),\n"
        "    io:format(\"nif=~ts~n\", [code:which(py_nif)]),\n"
        "    {ok, Context} = py_context:start(#{isolation => node}),\n"
        "    io:format(\"elsewhere=~0p~n\", [py:call(Context, math, sqrt, [9.0])]),\n"
        "    init:stop(),\n"
        "    {ok, spawn_link(fun() -> receive stop -> ok end end)}.\n"
        "stop(_) -> ok.\n").

write(Path, Text) ->
    ok = filelib:ensure_dir(Path),
    ok = file:write_file(Path, Text).

%% What a package or a clone holds: sources only, so that the dependency is built anew.
copy_ourselves(To) ->
    ok = filelib:ensure_path(To),
    Parts = ["src", "c_src", "python/erlang", "scripts", "priv/.gitkeep", "rebar.config", "rebar.config.script"],
    {0, _} = run("/bin/sh", ["-c", "tar -cf - --exclude __pycache__ \"$@\" | tar -xf - -C \"$0\"", To | Parts], root()),
    ok.

root() ->
    {ok, Root} = real_path(filename:join(code:lib_dir(erlang_python), "src")),
    filename:dirname(Root).

real_path(Path) ->
    {0, Real} = run("/bin/sh", ["-c", "cd \"$0\" && pwd -P", Path], "/"),
    {ok, string:trim(Real)}.

said(Key, Said) ->
    [Value] = [V || [K, V] <- Said, K =:= Key],
    Value.

shared_prefix(Prefix, Path) -> binary:part(Path, 0, min(byte_size(Prefix), byte_size(Path))).

run(Program, Args, Dir) ->
    Names = ["ERL_LIBS", "ERL_FLAGS", "REBAR_PROFILE", "REBAR_CONFIG", "VIRTUAL_ENV", "PYTHONPATH", "ROOTDIR", "BINDIR",
        "EMU", "PROGNAME"],
    Unset = [{Name, false} || Name <- Names],
    Port = open_port({spawn_executable, Program},
        [{args, Args}, {cd, Dir}, {env, Unset}, exit_status, stderr_to_stdout, binary, hide]),
    collect(Port, []).

collect(Port, Parts) ->
    receive
        {Port, {data, Part}} -> collect(Port, [Parts, Part]);
        {Port, {exit_status, 0}} -> {0, iolist_to_binary(Parts)};
        {Port, {exit_status, Status}} ->
            ct:pal("exit ~p~n~ts", [Status, Parts]),
            {Status, iolist_to_binary(Parts)}
    end.
