%% priv/erlpy from outside: where it may lie, what it finds, and that the emulator leaves no trace. How it behaves
%% beside python is in python/tests/test_erlpy.py.
-module(py_erlpy_SUITE).

-export([suite/0]).
-export([all/0]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([runs_code/1]).
-export([called_through_links/1]).
-export([called_by_name/1]).
-export([moved_release/1]).
-export([without_application/1]).
-export([erlang_code_beside_it/1]).
-export([calls_erlang/1]).
-export([called_from_erlang/1]).
-export([flags_for_the_emulator/1]).
-export([ports_work/1]).
-export([no_noise/1]).

-spec suite() -> [{timetrap, {minutes, pos_integer()}}].
suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        runs_code,
        called_through_links,
        called_by_name,
        moved_release,
        without_application,
        erlang_code_beside_it,
        calls_erlang,
        called_from_erlang,
        flags_for_the_emulator,
        ports_work,
        no_noise
    ].

init_per_testcase(_Case, Config) ->
    Dir = filename:join("/tmp", "erlpy_" ++ integer_to_list(erlang:unique_integer([positive])) ++ "_" ++ os:getpid()),
    ok = file:make_dir(Dir),
    [{dir, Dir} | Config].

end_per_testcase(_Case, Config) ->
    ok = file:del_dir_r(dir(Config)).

%% ---- cases ----

runs_code(_Config) ->
    {0, <<"[5]\n">>} = run(erlpy(), ["-c", "print([2 + 3])"]),
    {3, <<>>} = run(erlpy(), ["-c", "raise SystemExit(3)"]),
    {1, Traceback} = run(erlpy(), ["-c", "1/0"]),
    {_, _} = binary:match(Traceback, <<"ZeroDivisionError">>).

called_through_links(Config) ->
    Link = filename:join(dir(Config), "python-in-beam"),
    ok = file:make_symlink(erlpy(), Link),
    Printed = unicode:characters_to_binary([Link, "\n"]),
    {0, Printed} = run(Link, ["-c", "import sys; print(sys.executable)"]).

called_by_name(_Config) ->
    Path = filename:dirname(erlpy()) ++ ":" ++ os:getenv("PATH"),
    Printed = unicode:characters_to_binary([erlpy(), "\n"]),
    {0, Printed} = run("/bin/sh", ["-c", "erlpy -c 'import sys; print(sys.executable)'"], [{"PATH", Path}]).

%% As relx lays it out, with an emulator of its own, and nothing else to find.
moved_release(Config) ->
    Root = filename:join(dir(Config), "moved here"),
    Lib = filename:join(Root, "lib/erlang_python-0.1.0"),
    ok = filelib:ensure_path(filename:join(Root, "bin")),
    ok = filelib:ensure_path(Lib),
    Otp = code:root_dir(),
    Erts = "erts-" ++ erlang:system_info(version),
    ok = file:make_symlink(filename:join(Otp, Erts), filename:join(Root, Erts)),
    {ok, _} = file:copy(filename:join(Otp, "bin/start_clean.boot"), filename:join(Root, "bin/start_clean.boot")),
    [ok = file:make_symlink(code:lib_dir(App), filename:join([Root, "lib", filename:basename(code:lib_dir(App))]))
     || App <- [kernel, stdlib]],
    _ = os:cmd("cp -rL '" ++ priv() ++ "' '" ++ filename:join(filename:dirname(priv()), "ebin") ++ "' '" ++ Lib ++ "'"),
    Code = "import erlang, sys; print(bytes(erlang.apply('code', 'root_dir', [])).decode(), erlang.__file__)",
    {0, Out} = run(filename:join(Lib, "priv/erlpy"), ["-c", Code], [{"PATH", "/usr/bin:/bin"}]),
    Root8 = unicode:characters_to_binary(Root),
    Expected = <<Root8/binary, " ", Root8/binary, "/lib/erlang_python-0.1.0/priv/python/erlang/__init__.py\n">>,
    Expected = Out.

without_application(Config) ->
    Alone = filename:join(dir(Config), "erlpy"),
    {ok, _} = file:copy(erlpy(), Alone),
    ok = file:change_mode(Alone, 8#755),
    {1, <<"erlpy: there is no ebin/py_erlpy.beam", _/binary>>} = run(Alone, ["-c", "1"]).

%% Applications in the same lib directory are on the code path.
erlang_code_beside_it(Config) ->
    Lib = filename:join(dir(Config), "lib"),
    Ebin = filename:join(Lib, "mine-1.0/ebin"),
    ok = filelib:ensure_path(Ebin),
    ok = file:make_symlink(filename:dirname(priv()), filename:join(Lib, "erlang_python")),
    Forms = [
        {attribute, 1, module, erlpy_mine},
        {attribute, 1, export, [{double, 1}]},
        {function, 1, double, 1, [{clause, 1, [{var, 1, 'X'}], [], [{op, 1, '*', {integer, 1, 2}, {var, 1, 'X'}}]}]}
    ],
    {ok, erlpy_mine, Beam} = compile:forms(Forms),
    ok = file:write_file(filename:join(Ebin, "erlpy_mine.beam"), Beam),
    Code = "import erlang\n"
        "for name in ('erlpy_mine', 'double'): erlang.apply('erlang', 'binary_to_atom', [name])\n"
        "print(erlang.apply('erlpy_mine', 'double', [21]))",
    {0, <<"42\n">>} = run(filename:join(Lib, "erlang_python/priv/erlpy"), ["-c", Code]).

calls_erlang(_Config) ->
    Code = "import erlang; print(erlang.apply('lists', 'reverse', [[1, 2, 3]]))",
    {0, <<"[3, 2, 1]\n">>} = run(erlpy(), ["-c", Code]).

%% What the program defines can be called from Erlang processes of the same VM.
called_from_erlang(_Config) ->
    Code = "import erlang, threading\n"
        "def double(x): return x * 2\n"
        "main = threading.get_ident()\n"
        "def where(): return threading.get_ident() != main\n"
        "print(erlang.apply('py', 'call', [erlang.Atom('__main__'), erlang.Atom('double'), [21]])[1])\n"
        "print(erlang.apply('py', 'call', [erlang.Atom('__main__'), erlang.Atom('where'), []])[1])",
    {0, <<"42\nTrue\n">>} = run(erlpy(), ["-c", Code]).

flags_for_the_emulator(_Config) ->
    Code = "import erlang, os\n"
        "print(erlang.apply('erlang', 'system_info', [erlang.Atom('schedulers')]), 'ERLPY_STATE' in os.environ)",
    {0, <<"1 False\n">>} = run(erlpy(), ["-c", Code], [{"ERLPY_ERL_FLAGS", "+S 1:1"}]).

%% The emulator's own child processes: not the program's children, started with unblocked signals.
ports_work(_Config) ->
    Code = "import erlang, os\n"
        "command = b'grep SigBlk /proc/self/status; env | grep -c ERLPY_; exit 0'\n"
        "print(bytes(erlang.apply('os', 'cmd', [list(command)])))\n"
        "try: os.wait()\n"
        "except ChildProcessError: print('no children')",
    {0, <<"b'SigBlk:\\t0000000000000000\\n0\\n'\nno children\n">>} = run(erlpy(), ["-c", Code]).

%% Nothing on standard output or error, no crash dump, no core of ours, however it ends.
no_noise(Config) ->
    [
        {Status, <<>>} = run(erlpy(), ["-c", Code], [], dir(Config))
     || {Status, Code} <- [
            {0, "pass"},
            {143, "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"},
            {138, "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)"},
            {137, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"},
            {9, "import os; os._exit(9)"}
        ]
    ],
    {ok, []} = file:list_dir(dir(Config)).

%% ---- helpers ----

dir(Config) ->
    proplists:get_value(dir, Config).

priv() ->
    code:priv_dir(erlang_python).

erlpy() ->
    filename:join(priv(), "erlpy").

run(Program, Args) ->
    run(Program, Args, []).

run(Program, Args, Env) ->
    run(Program, Args, Env, "/").

run(Program, Args, Env, Dir) ->
    Options = [{args, Args}, {env, env(Env)}, {cd, Dir}, exit_status, binary, stderr_to_stdout],
    collect(open_port({spawn_executable, Program}, Options), <<>>).

env(More) ->
    Unset = [{Name, false} || Name <- ["BINDIR", "ROOTDIR", "EMU", "PROGNAME", "ERL_LIBS", "ERL_FLAGS"]],
    [{Name, Value} || {Name, Value} <- Unset, not lists:keymember(Name, 1, More)] ++ More.

collect(Port, Out) ->
    receive
        {Port, {data, Data}} -> collect(Port, <<Out/binary, Data/binary>>);
        {Port, {exit_status, Status}} -> {Status, Out}
    end.
