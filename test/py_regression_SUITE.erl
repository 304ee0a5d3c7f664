%% The ways in which bridges between Erlang and Python are known to fail, by their symptoms.
-module(py_regression_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        gil_held_in_c_stops_the_clock,
        gil_held_in_c_blocks_a_scheduler,
        gil_held_in_c_blocks_the_end_of_a_context,
        destructor_waits_for_the_gil,
        replies_are_crossed,
        batches_lose_their_last_request,
        context_variables_bleed_into_the_next_request,
        decimal_precision_bleeds_into_the_next_request,
        thread_state_changes_between_calls,
        thread_locals_of_a_worker_are_lost,
        interrupt_lands_in_a_finalizer,
        names_are_run_as_code,
        python_takes_the_signals_of_the_emulator,
        second_initialisation_crashes,
        fork_in_a_worker_kills_the_vm,
        subprocess_inherits_our_descriptors,
        import_on_many_threads_deadlocks,
        reference_outlives_its_context,
        reference_is_dropped_while_in_use,
        dunder_getattr_of_the_package_breaks_introspection,
        embedded_null_cuts_a_string,
        timers_and_threads_grow_with_calls
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages(),
    {ok, 4.0} = py:call(math, sqrt, [16]).

%% A call that holds the GIL, in C, until Erlang writes into a pipe: {Function, Args, Release}.
holder(C) ->
    ok = py:exec(C, <<
        "import ctypes, os\n"
        "def hold_the_gil(fd):\n"
        "    return ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)\n"
    >>),
    {ok, {Read, Write}} = py:call(C, os, pipe, []),
    {ok, Pipe} = file:open("/proc/self/fd/" ++ integer_to_list(Write), [write, raw]),
    {
        [Read],
        fun() ->
            ok = file:write(Pipe, "x"),
            ok = file:close(Pipe),
            py_test_lib:eventually(fun() -> {ok, none} = py:call(os, close, [Write], #{}, 1000) end),
            {ok, none} = py:call(os, close, [Read]),
            ok
        end
    }.

gil_held_in_c_stops_the_clock(_) ->
    C = py_test_lib:context(#{threads => 2}),
    {Args, Release} = holder(C),
    Holding = py:spawn_call(C, '__main__', hold_the_gil, Args),
    py_test_lib:running({C, 1}),
    Results = py_test_lib:abandoning(fun() ->
        py_test_lib:parallel(10, fun(I) -> py:call(C, builtins, abs, [I], #{}, 20 * I) end)
    end),
    ?assertEqual([{error, timeout}], lists:usort([plain(R) || R <- Results])),
    {error, timeout} = py:await(Holding, 10),
    Release(),
    {ok, 1} = py:call(C, builtins, abs, [1]),
    py_context:stop(C).

%% A worker that had taken the request when the GIL went away is given up.
plain({error, {timeout, abandoned}}) -> {error, timeout};
plain(Result) -> Result.

%% Whatever an Erlang process does, it is not for the GIL that it waits.
gil_held_in_c_blocks_a_scheduler(_) ->
    C = py_test_lib:context(#{}),
    D = py_test_lib:context(#{}),
    {Args, Release} = holder(C),
    {ok, Ref} = py:call(D, builtins, object, []),
    Holding = py:spawn_call(C, '__main__', hold_the_gil, Args),
    py_test_lib:running({C, 1}),
    Waiting = [py:spawn_call(D, builtins, id, [Ref]) || _ <- lists:seq(1, 1000)],
    #{running_contexts := [_ | _]} = py:info(),
    ok = py:interrupt(C),
    ok = py:interrupt(D),
    ok = py:cast(D, builtins, id, [1]),
    E = py_test_lib:context(#{}),
    py_context:stop(E),
    [cancelled = py_nif:cancel(R, true) || R <- lists:nthtail(500, Waiting)],
    true = erlang:garbage_collect(),
    Release(),
    ?assertMatch({_, _}, py:await(Holding)),
    [?assertMatch({R, _} when R =:= ok; R =:= error, py:await(W)) || W <- lists:sublist(Waiting, 500)],
    [py_context:stop(P) || P <- [C, D]].

gil_held_in_c_blocks_the_end_of_a_context(_) ->
    C = py_test_lib:context(#{threads => 2}),
    {Args, Release} = holder(C),
    Holding = py:spawn_call(C, '__main__', hold_the_gil, Args),
    py_test_lib:running({C, 1}),
    Waiting = [py:spawn_call(C, builtins, abs, [I]) || I <- [1, 2, 3]],
    py_test_lib:abandoning(fun() -> py_context:stop(C) end),
    {error, {stopped, abandoned}} = py:await(Holding),
    [?assertMatch({error, _}, py:await(W)) || W <- Waiting],
    Release().

destructor_waits_for_the_gil(_) ->
    C = py_test_lib:context(#{}),
    {Args, Release} = holder(C),
    {Pid, Monitor} = spawn_monitor(fun() ->
        Refs = [element(2, {ok, _} = py:call(C, builtins, object, [])) || _ <- lists:seq(1, 1000)],
        _ = py:spawn_call(C, '__main__', hold_the_gil, Args),
        receive
            die -> length(Refs)
        end
    end),
    py_test_lib:running({C, 1}),
    Pid ! die,
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok
    end,
    py_test_lib:eventually(fun() -> #{refs := 0} = py_nif:counters() end),
    Release(),
    py_context:stop(C).

replies_are_crossed(_) ->
    C = py_test_lib:context(#{threads => 4}),
    ok = py:exec(C, <<"import time\ndef back(x, s):\n    if s: time.sleep(s / 1000)\n    return x">>),
    py_test_lib:parallel(200, fun(P) ->
        Refs = [{I, py:spawn_call(C, '__main__', back, [{P, I}, (P + I) rem 40 div 39])} || I <- lists:seq(1, 30)],
        Shuffled = [R || {_, R} <- lists:sort([{erlang:phash2({P, I}), R} || {I, _} = R <- Refs])],
        [?assertEqual({ok, {P, I}}, py:await(R)) || {I, R} <- Shuffled],
        py_test_lib:no_messages()
    end),
    py_context:stop(C).

batches_lose_their_last_request(_) ->
    C = py_test_lib:context(#{}),
    [
        begin
            Refs = [py:spawn_call(C, builtins, abs, [-I]) || I <- lists:seq(1, N)],
            [{ok, I} = py:await(R) || {I, R} <- lists:zip(lists:seq(1, N), Refs)],
            %% long enough for the worker to go to sleep, and sometimes just not
            Pause = N rem 3,
            receive
            after Pause -> ok
            end
        end
     || N <- lists:seq(1, 150)
    ],
    py_context:stop(C).

context_variables_bleed_into_the_next_request(_) ->
    C = py_test_lib:context(#{}),
    ok = py:exec(C, <<
        "import contextvars\n"
        "v = contextvars.ContextVar('v', default=0)\n"
        "def put(x):\n"
        "    before = v.get(); v.set(x); return before, v.get()\n"
    >>),
    [{ok, {0, I}} = py:call(C, '__main__', put, [I]) || I <- lists:seq(1, 10)],
    {ok, 0} = py:eval(C, <<"v.get()">>),
    py_context:stop(C).

decimal_precision_bleeds_into_the_next_request(_) ->
    C = py_test_lib:context(#{}),
    ok = py:exec(C, <<"import decimal\ndecimal.getcontext().prec = 3\nthird = str(decimal.Decimal(1) / 3)">>),
    {ok, <<"0.333">>} = py:eval(C, <<"third">>),
    {ok, <<"0.3333333333333333333333333333">>} = py:eval(C, <<"str(decimal.Decimal(1) / 3)">>),
    py_context:stop(C).

%% What holds on to a thread, like sqlite3 or an OpenMP library, must find it again.
thread_state_changes_between_calls(_) ->
    C = py_test_lib:context(#{}),
    {ok, Db} = py:call(C, sqlite3, connect, [<<":memory:">>]),
    {ok, _} = py:call(C, Db, execute, [<<"create table t (x)">>]),
    py_test_lib:parallel(20, fun(I) -> {ok, _} = py:call(C, Db, execute, [<<"insert into t values (?)">>, {I}]) end),
    {ok, Cursor} = py:call(C, Db, execute, [<<"select count(*) from t">>]),
    {ok, {20}} = py:call(C, Cursor, fetchone, []),
    {ok, none} = py:call(C, Db, close, []),
    py_context:stop(C).

thread_locals_of_a_worker_are_lost(_) ->
    C = py_test_lib:context(#{}),
    ok = py:exec(C, <<"import threading\nlocal = threading.local()\nlocal.x = 1">>),
    [{ok, 1} = py:eval(C, <<"local.x">>) || _ <- lists:seq(1, 10)],
    py_context:stop(C).

%% An interrupt that is meant for a request may fall into a __del__ that runs on its thread: it must not be lost.
interrupt_lands_in_a_finalizer(_) ->
    C = py_test_lib:context(#{}),
    ok = py:exec(C, <<
        "class Slow:\n"
        "    def __del__(self):\n"
        "        for _ in range(10000): pass\n"
        "def finalizers():\n"
        "    while True: Slow()\n"
    >>),
    [{error, timeout} = py:call(C, '__main__', finalizers, [], #{}, 5) || _ <- lists:seq(1, 10)],
    #{lost_workers := 0} = py_context:info(C),
    py_context:stop(C).

names_are_run_as_code(_) ->
    Mark = <<"__import__('builtins').__dict__.__setitem__('hacked', 1)">>,
    {error, {'ModuleNotFoundError', _}} = py:call(<<"os; ", Mark/binary>>, f, []),
    {error, {'AttributeError', _}} = py:call(os, Mark, []),
    {error, {'TypeError', _}} = py:call(builtins, dict, [], #{Mark => 1}),
    {ok, Mark} = py:eval(<<"x">>, #{x => Mark}),
    {ok, 1} = py:eval(<<"1">>, #{Mark => 1}),
    {ok, false} = py:eval(<<"hasattr(__import__('builtins'), 'hacked')">>).

python_takes_the_signals_of_the_emulator(_) ->
    ok = py:exec(<<"import signal">>),
    {error, {'ValueError', _}} = py:eval(<<"signal.signal(signal.SIGTERM, signal.SIG_DFL)">>),
    {ok, Status} = file:read_file("/proc/self/status"),
    {match, [Hex]} = re:run(Status, "SigCgt:\\s*([0-9a-f]+)", [{capture, all_but_first, list}]),
    Caught = list_to_integer(Hex, 16),
    [?assert(Caught band (1 bsl (Signal - 1)) =/= 0, Signal) || Signal <- [10, 15]]. %% USR1, TERM: the emulator's

second_initialisation_crashes(_) ->
    Results = py_test_lib:parallel(10, fun(_) ->
        Ref = make_ref(),
        ok = py_nif:runtime_start(Ref, #{python_path => py_env:python_path(), program => false}),
        receive
            {Ref, Result} -> Result
        end
    end),
    [ok] = lists:usort(Results).

fork_in_a_worker_kills_the_vm(_) ->
    ok = py:exec(<<
        "import os, warnings\n"
        "def forks():\n"
        "    with warnings.catch_warnings():\n"
        "        warnings.simplefilter('ignore')\n"
        "        pid = os.fork()\n"
        "    if pid == 0: os._exit(7)\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
        "def forks_and_returns():\n"
        "    with warnings.catch_warnings():\n"
        "        warnings.simplefilter('ignore')\n"
        "        pid = os.fork()\n"
        "    return pid if pid == 0 else os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
    >>),
    [{ok, 7} = py:call('__main__', forks, []) || _ <- lists:seq(1, 5)],
    {ok, 0} = py:call('__main__', forks_and_returns, []).

subprocess_inherits_our_descriptors(_) ->
    {ok, Fds} = py:eval(<<"__import__('subprocess').run(['ls', '/proc/self/fd'], capture_output=True, text=True)"
        ".stdout.split()">>),
    ?assert(length(Fds) =< 5, Fds).

import_on_many_threads_deadlocks(Config) ->
    Sources = [
        {"circle_" ++ integer_to_list(I),
            io_lib:format("import circle_~b\nimport time\ntime.sleep(0.001)\ndef f(): return ~b\n", [(I + 1) rem 8, I])}
     || I <- lists:seq(0, 7)
    ],
    [py_test_lib:module(Config, Name, Source) || {Name, Source} <- Sources],
    Name = fun(P) -> list_to_binary("circle_" ++ integer_to_list(P rem 8)) end,
    Results = py_test_lib:parallel(64, fun(P) -> py:call(Name(P), f, []) end),
    ?assertEqual([{ok, P rem 8} || P <- lists:seq(1, 64)], Results).

reference_outlives_its_context(_) ->
    C = py_test_lib:context(#{}),
    {ok, Ref} = py:call(C, collections, deque, [[1, 2]]),
    py_context:stop(C),
    {ok, 2} = py:call(builtins, len, [Ref]).

reference_is_dropped_while_in_use(_) ->
    C = py_test_lib:context(#{threads => 4}),
    ok = py:exec(C, <<"class Thing:\n    def me(self): return self\n">>),
    py_test_lib:parallel(50, fun(_) ->
        [
            begin
                {ok, Ref} = py:call(C, '__main__', 'Thing', []),
                _ = py:spawn_call(C, Ref, me, []),
                ok = py:cast(C, Ref, me, []),
                erlang:garbage_collect()
            end
         || _ <- lists:seq(1, 20)
        ]
    end),
    py_test_lib:eventually(fun() -> #{refs := 0, requests := 0} = py_nif:counters() end),
    py_context:stop(C).

dunder_getattr_of_the_package_breaks_introspection(_) ->
    ok = py:exec(<<"import erlang, inspect, sys">>),
    {ok, false} = py:eval(<<"hasattr(erlang, '__wrapped__') or hasattr(erlang, '__file_of_nobody__')">>),
    {ok, _} = py:eval(<<"[inspect.unwrap(m) and None for m in list(sys.modules.values())]">>).

embedded_null_cuts_a_string(_) ->
    {ok, <<"a", 0, "b">>} = py:call(builtins, str, [<<"a", 0, "b">>]),
    {error, _} = py:call(<<"ma", 0, "th">>, sqrt, [1]),
    {error, _} = py:call(math, <<"sq", 0, "rt">>, [1]),
    {error, {'ValueError', #{message := <<"x", 0, "y">>}}} = py:exec(<<"raise ValueError('x\\0y')">>).

timers_and_threads_grow_with_calls(_) ->
    Count = fun() ->
        {length(py_test_lib:threads()), length(erlang:ports())}
    end,
    _ = [py:call(builtins, abs, [I], #{}, 1000) || I <- lists:seq(1, 100)],
    Before = Count(),
    _ = [py:call(builtins, abs, [I], #{}, 1000) || I <- lists:seq(1, 20000)],
    ?assertEqual(Before, Count()).
