%% The application as a whole: start, stop, restart, the end of the VM, the environment it finds Python in. What ends a
%% VM runs in a node of its own.
-module(py_app_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 3}}].

all() ->
    [
        application_restarted_a_hundred_times,
        restart_while_a_lost_worker_lives,
        restart_after_an_atexit_callback_that_hangs,
        stop_answers_every_caller,
        extension_modules_find_libpython,
        subprocess_exit_codes_are_right,
        {group, own_node},
        {group, environment}
    ].

groups() ->
    [
        {own_node, [parallel], [
            halt_while_python_computes,
            halt_while_python_is_stuck_in_c,
            stop_while_python_computes,
            stop_while_python_is_stuck_in_c,
            stop_with_an_executor,
            stop_with_endless_threads,
            stop_waits_for_threads_that_end,
            stop_while_python_prints,
            atexit_runs_once,
            atexit_runs_when_the_application_stops
        ]},
        {environment, [parallel], [
            python_by_application_environment,
            python_by_virtual_env,
            wrong_version_is_refused,
            missing_python_is_refused,
            quotas_and_default_context_by_environment
        ]}
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

application_restarted_a_hundred_times(_) ->
    ok = py:exec(<<"import threading">>),
    Restart = fun(I) ->
        ok = application:stop(erlang_python),
        {error, noproc} = py:call(math, sqrt, [I * I]),
        {ok, _} = application:ensure_all_started(erlang_python),
        {ok, Root} = py:call(math, sqrt, [I * I]),
        ?assertEqual(I, trunc(Root))
    end,
    [Restart(I) || I <- lists:seq(1, 20)],
    Threads = settled_threads(),
    [Restart(I) || I <- lists:seq(21, 100)],
    ?assertEqual(Threads, settled_threads()).

settled_threads() ->
    py_test_lib:eventually(fun() ->
        #{contexts := 1} = py_nif:counters(),
        Threads = lists:sort(py_test_lib:threads()),
        1 = length([T || "py_worker" = T <- Threads]),
        Threads
    end).

restart_while_a_lost_worker_lives(_) ->
    C = py:context(),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    {error, {timeout, abandoned}} = py_test_lib:abandoning(fun() ->
        py_test_lib:begun(fun(Ms) -> py:call(C, M, F, A, #{}, Ms) end, {error, timeout})
    end),
    ok = application:stop(erlang_python),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, 4.0} = py:call(math, sqrt, [16]),
    Release(),
    {ok, 4.0} = py:call(math, sqrt, [16]).

restart_after_an_atexit_callback_that_hangs(_) ->
    ok = py:exec(<<"import atexit, threading\ngate = threading.Event()\natexit.register(gate.wait)">>),
    ok = application:stop(erlang_python),
    {ok, _} = application:ensure_all_started(erlang_python),
    {ok, 4.0} = py:call(math, sqrt, [16]),
    ok = py:exec(<<"gate.set()">>).

stop_answers_every_caller(_) ->
    ok = py:exec(<<"def forever():\n    while True: pass">>),
    Call = fun() -> exit({got, py:call('__main__', forever, [], #{}, infinity)}) end,
    Callers = [spawn_monitor(Call) || _ <- lists:seq(1, 100)],
    py_test_lib:eventually(fun() ->
        #{queued := Queued, running := Running} = py_context:info(py:context()),
        100 = Queued + length(Running)
    end),
    ok = application:stop(erlang_python),
    [
        receive
            {'DOWN', Monitor, process, Pid, {got, Got}} -> ?assertEqual({error, stopped}, Got)
        end
     || {Pid, Monitor} <- Callers
    ],
    {ok, _} = application:ensure_all_started(erlang_python).

%% Extension modules are not linked against libpython: its symbols must be global.
extension_modules_find_libpython(_) ->
    %% first: where `_asyncio` is imported before `asyncio`, no task of that interpreter is ever the current one
    {ok, _} = py:call(importlib, import_module, [asyncio]),
    [
        ?assertMatch({ok, _}, py:call(importlib, import_module, [M]), M)
     || M <- [
            '_ssl', '_sqlite3', '_ctypes', '_decimal', asyncio, '_asyncio', '_socket', '_json', '_hashlib', '_lzma',
            '_bz2'
        ]
    ],
    {ok, <<"3.30">>} = py:eval(<<"str(__import__('decimal').Decimal('1.10') * 3)">>),
    {ok, 42} = py:eval(<<"__import__('sqlite3').connect(':memory:').execute('select 42').fetchone()[0]">>),
    case py:call(importlib, import_module, [numpy]) of
        {ok, _} -> {ok, 6} = py:eval(<<"int(__import__('numpy').arange(4).sum())">>);
        {error, {'ModuleNotFoundError', _}} -> {comment, "without numpy"}
    end.

%% The emulator ignores SIGCHLD, and a program that inherits that cannot see how its children end.
subprocess_exit_codes_are_right(_) ->
    ok = py:exec(<<
        "import os, subprocess, sys\n"
        "def run(*args): return subprocess.run(args).returncode\n"
    >>),
    [
        {ok, N} = py:call('__main__', run, [<<"sh">>, <<"-c">>, iolist_to_binary(["exit ", integer_to_list(N)])])
     || N <- [0, 1, 7, 255]
    ],
    {ok, -9} = py:call('__main__', run, [<<"sh">>, <<"-c">>, <<"kill -9 $$">>]),
    {ok, 3} = py:eval(<<"os.waitstatus_to_exitcode(os.system('exit 3'))">>),
    {ok, 5} = py:eval(<<"run(sys.executable, '-c', 'import subprocess, sys; "
        "sys.exit(subprocess.run([\"sh\", \"-c\", \"exit 5\"]).returncode)')">>),
    Codes = py_test_lib:parallel(20, fun(I) ->
        py:call('__main__', run, [<<"sh">>, <<"-c">>, iolist_to_binary(["exit ", integer_to_list(I)])])
    end),
    ?assertEqual([{ok, I} || I <- lists:seq(1, 20)], Codes),
    "still\n" = os:cmd("echo still").

%% ---- the end of the VM ----

-define(START, "{ok, _} = application:ensure_all_started(erlang_python),").
-define(SPIN,
    "ok = py:exec(<<\"def forever():\\n    while True: pass\">>),"
    "[py:spawn_call('__main__', forever, []) || _ <- [1, 2, 3]],"
).
-define(STUCK,
    "{ok, {R, _}} = py:call(os, pipe, []),"
    "[py:spawn_call(os, read, [R, 1]) || _ <- [1, 2, 3]],"
).
-define(RUNNING, "py_test_lib:running({py:context(), 3}),").

halt_while_python_computes(Config) ->
    {7, _} = py_test_lib:run_node(Config, [?START, ?SPIN, ?RUNNING, "halt(7)."]).

halt_while_python_is_stuck_in_c(Config) ->
    {7, _} = py_test_lib:run_node(Config, [?START, ?STUCK, ?RUNNING, "halt(7)."]).

stop_while_python_computes(Config) ->
    {7, _} = py_test_lib:run_node(Config, [?START, ?SPIN, ?RUNNING, "init:stop(7)."]).

stop_while_python_is_stuck_in_c(Config) ->
    {7, _} = py_test_lib:run_node(Config, [?START, ?STUCK, ?RUNNING, "init:stop(7)."]).

stop_with_an_executor(Config) ->
    {7, Output} = py_test_lib:run_node(Config, [
        ?START,
        "ok = py:exec(<<\"from concurrent.futures import ThreadPoolExecutor\\n"
        "import atexit, os, time\\n"
        "pool = ThreadPoolExecutor(2)\\n"
        "pool.submit(print, 'started').result()\\n"
        "pool.submit(lambda: (time.sleep(0.2), os.write(1, b'finished\\\\n')))\\n\">>),"
        "init:stop(7)."
    ]),
    ?assertMatch({_, _}, binary:match(Output, <<"finished">>), Output).

stop_with_endless_threads(Config) ->
    {7, _} = py_test_lib:run_node(Config, [
        ?START,
        "ok = py:exec(<<\"import threading\\n"
        "def forever():\\n    while True: pass\\n"
        "threading.Thread(target=forever).start()\\n"
        "threading.Thread(target=threading.Event().wait).start()\\n"
        "threading.Thread(target=forever, daemon=True).start()\\n\">>),"
        "init:stop(7)."
    ]).

stop_waits_for_threads_that_end(Config) ->
    {7, Output} = py_test_lib:run_node(Config, [
        ?START,
        "ok = py:exec(<<\"import os, threading, time\\n"
        "def save():\\n    time.sleep(0.3)\\n    os.write(1, b'saved\\\\n')\\n"
        "saver = threading.Thread(target=save)\\nassert not saver.daemon\\nsaver.start()\\n\">>),"
        "init:stop(7)."
    ]),
    ?assertMatch({_, _}, binary:match(Output, <<"saved">>), Output).

stop_while_python_prints(Config) ->
    {7, _} = py_test_lib:run_node(Config, [
        ?START,
        "ok = py:exec(<<\"import threading\\n"
        "def talk():\\n    while True: print('x' * 100)\\n\">>),"
        "[py:spawn_call('__main__', talk, []) || _ <- [1, 2, 3]],",
        ?RUNNING,
        "init:stop(7)."
    ]).

atexit_runs_once(Config) ->
    {7, Output} = py_test_lib:run_node(Config, [
        ?START,
        "ok = py:exec(<<\"import atexit, os\\natexit.register(lambda: os.write(1, b'<at exit>'))\\n\">>),"
        "init:stop(7)."
    ]),
    ?assertMatch([_], binary:matches(Output, <<"<at exit>">>), Output).

atexit_runs_when_the_application_stops(Config) ->
    {7, Output} = py_test_lib:run_node(Config, [
        ?START,
        "ok = py:exec(<<\"import atexit, os\\natexit.register(lambda: os.write(1, b'<at exit>'))\\n\">>),"
        "ok = application:stop(erlang_python),"
        "file:write_file(\"/dev/stdout\", <<\"<stopped>\">>),", ?START,
        "{ok, 1} = py:eval(<<\"1\">>),"
        "init:stop(7)."
    ]),
    %% the logger's report of the stop may stand between them
    [{AtExit, _}] = binary:matches(Output, <<"<at exit>">>),
    [{Stopped, _}] = binary:matches(Output, <<"<stopped>">>),
    ?assert(AtExit < Stopped, Output).

%% ---- where Python is ----

prefix(Code, Env, Config) ->
    {0, Output} = py_test_lib:run_node(Config, [
        Code, ?START, "{ok, P} = py:eval(<<\"__import__('sys').prefix\">>), io:put_chars([P, $\\n]), halt()."
    ], Env),
    string:trim(Output).

python_by_application_environment(Config) ->
    Venv = venv(Config, "by_env"),
    Set = fun(Path) -> ["application:set_env(erlang_python, python, \"", Path, "\"),"] end,
    ?assertEqual(list_to_binary(Venv), prefix(Set(Venv), [], Config)),
    ?assertEqual(list_to_binary(Venv), prefix(Set(filename:join([Venv, "bin", "python"])), [], Config)).

python_by_virtual_env(Config) ->
    Venv = venv(Config, "by_variable"),
    ?assertEqual(list_to_binary(Venv), prefix("", [{"VIRTUAL_ENV", Venv}], Config)).

wrong_version_is_refused(Config) ->
    Venv = venv(Config, "wrong"),
    Cfg = filename:join(Venv, "pyvenv.cfg"),
    {ok, Text} = file:read_file(Cfg),
    ok = file:write_file(Cfg, re:replace(Text, "version = 3\\.\\d+", "version = 3.7", [])),
    Output = refused(Venv, Config),
    ?assertMatch({match, _}, re:run(Output, "is of Python 3.7; this build embeds 3"), Output).

missing_python_is_refused(Config) ->
    Output = refused("/no/such/place", Config),
    ?assertMatch({match, _}, re:run(Output, "/no/such/place.* is not there"), Output).

refused(Path, Config) ->
    {3, Output} = py_test_lib:run_node(Config, [
        "application:set_env(erlang_python, python, \"", Path, "\"),"
        "{error, E} = application:ensure_all_started(erlang_python), io:format(\"~1000p~n\", [E]), halt(3)."
    ]),
    re:replace(Output, "\\s+", " ", [global, {return, binary}]).

quotas_and_default_context_by_environment(Config) ->
    {0, Output} = py_test_lib:run_node(Config, [
        "application:set_env(erlang_python, atom_quota, 3),"
        "application:set_env(erlang_python, default_context, #{threads => 2, preload => [json]}),",
        ?START,
        "#{max_threads := 2} = py_context:info(py:context()),"
        "ok = py:exec(<<\"from erlang import Atom\\n"
        "made = [Atom(f'never_seen_before_{i}') for i in range(3)]\">>),"
        "{ok, _} = py:eval(<<\"made\">>),"
        "{error, _} = py:eval(<<\"Atom('never_seen_before_3')\">>),"
        "io:put_chars(\"fine\"), halt()."
    ]),
    ?assertEqual(<<"fine">>, Output).

%% An environment without anything in it, of the Python that runs here.
venv(Config, Name) ->
    Venv = filename:join(proplists:get_value(priv_dir, Config), Name),
    {ok, none} = py:call(venv, create, [list_to_binary(Venv)], #{symlinks => true}),
    Venv.
