%% Contexts: options, names, isolation of namespaces, elastic workers, stopping and dying.
-module(py_context_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        bad_options_are_refused,
        option_name,
        a_name_is_free_again,
        one_of_many_gets_the_name,
        option_sys_path_and_preload,
        option_preload_with_binaries_as_bytes,
        failing_preload_refuses_the_start,
        option_binaries,
        option_spin,
        option_max_queue,
        option_threads_is_the_limit,
        namespaces_are_separate,
        modules_are_shared,
        thread_affinity_of_one_thread,
        sleeping_call_stalls_nobody,
        computing_call_stalls_nobody,
        workers_stand_by_and_are_used_again,
        stop_answers_what_runs_and_waits,
        stop_of_a_stuck_context,
        stop_with_standby_workers,
        owner_killed_while_calls_run,
        owner_killed_with_a_full_queue,
        stop_with_tens_of_thousands_waiting,
        started_by_a_process_that_dies,
        linked_exit_ends_it,
        default_context_is_restarted,
        registry_is_restarted,
        killed_contexts_leave_no_trace,
        thousand_contexts_started_and_stopped,
        thousand_contexts_at_once
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages().

bad_options_are_refused(_) ->
    [
        ?assertEqual({error, {bad_option, Bad}}, py_context:start(Options), Options)
     || {Bad, Options} <- [
            {thread, #{thread => 1}},
            {{threads, 0}, #{threads => 0}},
            {{threads, many}, #{threads => many}},
            {{spin_us, -1}, #{spin_us => -1}},
            {{max_queue, 0}, #{max_queue => 0}},
            {{binaries, utf8}, #{binaries => utf8}},
            {{name, "x"}, #{name => "x"}},
            {{preload, json}, #{preload => json}},
            {{preload, [1]}, #{preload => [1]}},
            {{sys_path, "/tmp"}, #{sys_path => "/tmp"}},
            {{sys_path, [17]}, #{sys_path => [17]}},
            {[], []}
        ]
    ].

option_name(_) ->
    C = py_test_lib:context(#{name => a_name}),
    C = py:context(a_name),
    undefined = py:context(another_name),
    undefined = py:context(undefined),
    {error, {already_started, C}} = py_context:start(#{name => a_name}),
    Default = py:context(),
    {error, {already_started, Default}} = py_context:start(#{name => default}),
    #{name := a_name, pid := C} = py_context:info(C),
    py_context:stop(C),
    undefined = py:context(a_name),
    undefined = py_context:info(C).

a_name_is_free_again(_) ->
    [
        begin
            C = py_test_lib:context(#{name => a_name}),
            end_it(C, How),
            D = py_test_lib:context(#{name => a_name}),
            D = py:context(a_name),
            {ok, 1} = py:eval(D, <<"1">>),
            py_context:stop(D)
        end
     || How <- [stop, kill, kill, stop, shutdown]
    ].

end_it(C, stop) ->
    py_context:stop(C);
end_it(C, Reason) ->
    Monitor = monitor(process, C),
    exit(C, Reason),
    receive
        {'DOWN', Monitor, process, C, _} -> ok
    end.

one_of_many_gets_the_name(_) ->
    Results = py_test_lib:parallel(20, fun(_) -> py_context:start(#{name => contended}) end),
    [C] = [C || {ok, C} <- Results],
    19 = length([1 || {error, {already_started, C1}} <- Results, C1 =:= C]),
    py_context:stop(C).

option_sys_path_and_preload(Config) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "päth"),
    ok = file:make_dir(Dir),
    ok = file:write_file(filename:join(Dir, "of_the_path.py"), "x = 7\n"),
    C = py_test_lib:context(#{sys_path => [Dir], preload => [of_the_path, <<"json">>]}),
    {ok, 7} = py:eval(C, <<"__import__('sys').modules['of_the_path'].x">>),
    Named = <<"[p for p in __import__('sys').path if p == d]">>,
    {ok, [_]} = py:eval(C, Named, #{d => unicode:characters_to_binary(Dir)}),
    %% once is enough
    D = py_test_lib:context(#{sys_path => [unicode:characters_to_binary(Dir)]}),
    {ok, [_]} = py:eval(D, Named, #{d => unicode:characters_to_binary(Dir)}),
    [py_context:stop(P) || P <- [C, D]].

option_preload_with_binaries_as_bytes(Config) ->
    Dir = proplists:get_value(priv_dir, Config),
    C = py_test_lib:context(#{binaries => bytes, preload => [json], sys_path => [Dir]}),
    {ok, []} = py:eval(C, <<"[p for p in __import__('sys').path if not isinstance(p, str)]">>),
    py_context:stop(C).

failing_preload_refuses_the_start(Config) ->
    M = py_test_lib:module(Config, "fails_to_load", "1 / 0\n"),
    {error, {preload, {'ZeroDivisionError', _}}} = py_context:start(#{preload => [M]}),
    {error, {preload, {'ModuleNotFoundError', _}}} = py_context:start(#{preload => [no_such_module_here]}).

option_binaries(_) ->
    C = py_test_lib:context(#{binaries => bytes}),
    {ok, <<"bytes">>} = py:eval(C, <<"type(x).__name__">>, #{x => <<"a">>}),
    {ok, true} = py:call(C, operator, eq, [[<<"a">>], [{bytes, <<"a">>}]]),
    py_context:stop(C),
    {ok, <<"str">>} = py:eval(<<"type(x).__name__">>, #{x => <<"a">>}),
    {ok, <<"bytes">>} = py:eval(<<"type(x).__name__">>, #{x => <<"a">>}, #{binaries => bytes}).

option_spin(_) ->
    [
        begin
            C = py_test_lib:context(#{spin_us => Spin}),
            [{ok, I} = py:call(C, builtins, abs, [-I]) || I <- lists:seq(1, 200)],
            py_context:stop(C)
        end
     || Spin <- [0, 1, 20, 1000]
    ].

option_max_queue(_) ->
    C = py_test_lib:context(#{max_queue => 3}),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    Running = py:spawn_call(C, M, F, A),
    py_test_lib:running({C, 1}),
    Waiting = [py:spawn_call(C, builtins, abs, [I]) || I <- [1, 2, 3]],
    {error, overloaded} = py:call(C, builtins, abs, [4]),
    {error, overloaded} = py:cast(C, builtins, abs, [4]),
    {error, overloaded} = py:eval(C, <<"4">>),
    {error, overloaded} = py:await(py:spawn_call(C, builtins, abs, [4])),
    #{queued := 3} = py_context:info(C),
    Release(),
    {ok, <<"x">>} = py:await(Running),
    [{ok, I} = py:await(R) || {I, R} <- lists:zip([1, 2, 3], Waiting)],
    {ok, 4} = py:call(C, builtins, abs, [4]),
    py_context:stop(C).

option_threads_is_the_limit(_) ->
    C = py_test_lib:context(#{threads => 3}),
    Blockers = [py_test_lib:blocker(C) || _ <- lists:seq(1, 5)],
    Refs = [py:spawn_call(C, M, F, A) || {{M, F, A}, _} <- Blockers],
    py_test_lib:running({C, 3}),
    timer:sleep(50), %% the watchdog would have had time for more
    #{workers := 3, queued := 2, max_threads := 3} = py_context:info(C),
    [Release() || {_, Release} <- Blockers],
    [{ok, <<"x">>} = py:await(R) || R <- Refs],
    #{workers := 3} = py_context:info(C),
    py_context:stop(C).

namespaces_are_separate(_) ->
    [C, D] = [py_test_lib:context(#{}) || _ <- [1, 2]],
    ok = py:exec(C, <<"x = 1\ndef f(): return x">>),
    ok = py:exec(D, <<"x = 2\ndef f(): return x">>),
    {ok, 1} = py:call(C, '__main__', f, []),
    {ok, 2} = py:call(D, '__main__', f, []),
    {error, {'NameError', _}} = py:eval(<<"x">>),
    {ok, <<"__main__">>} = py:eval(C, <<"__name__">>),
    [py_context:stop(P) || P <- [C, D]].

modules_are_shared(_) ->
    C = py_test_lib:context(#{}),
    ok = py:exec(C, <<"import json; json.mark_of_a_test = 1">>),
    {ok, 1} = py:eval(<<"__import__('json').mark_of_a_test">>),
    ok = py:exec(<<"import json; del json.mark_of_a_test; del json">>),
    py_context:stop(C).

thread_affinity_of_one_thread(_) ->
    C = py_test_lib:context(#{}),
    Ids = py_test_lib:parallel(20, fun(_) -> py:call(C, threading, get_ident, []) end),
    [{ok, _}] = lists:usort(Ids),
    py_context:stop(C).

%% Nine threads: some block in C, for as long as the test likes, and the rest still answers.
sleeping_call_stalls_nobody(_) ->
    C = py_test_lib:context(#{threads => 9}),
    Blockers = [py_test_lib:blocker(C) || _ <- lists:seq(1, 8)],
    Refs = [py:spawn_call(C, M, F, A) || {{M, F, A}, _} <- Blockers],
    py_test_lib:parallel(20, fun(P) -> [{ok, P} = py:call(C, builtins, abs, [-P]) || _ <- lists:seq(1, 100)] end),
    py_test_lib:running({C, 8}),
    [Release() || {_, Release} <- Blockers],
    [{ok, <<"x">>} = py:await(R) || R <- Refs],
    py_context:stop(C).

computing_call_stalls_nobody(_) ->
    C = py_test_lib:context(#{threads => 3}),
    ok = py:exec(C, <<"on = True\ndef spin():\n    while on: pass">>),
    Refs = [py:spawn_call(C, '__main__', spin, []) || _ <- [1, 2]],
    [{ok, I} = py:call(C, builtins, abs, [-I]) || I <- lists:seq(1, 50)],
    ok = py:exec(C, <<"on = False">>),
    [{ok, none} = py:await(R) || R <- Refs],
    py_context:stop(C).

workers_stand_by_and_are_used_again(_) ->
    C = py_test_lib:context(#{threads => 4}),
    Threads = [
        begin
            Blockers = [py_test_lib:blocker(C) || _ <- [1, 2, 3]],
            Refs = [py:spawn_call(C, M, F, A) || {{M, F, A}, _} <- Blockers],
            py_test_lib:running({C, 3}),
            {ok, _} = py:call(C, builtins, abs, [1]),
            #{workers := N} = py_context:info(C),
            [Release() || {_, Release} <- Blockers],
            [{ok, <<"x">>} = py:await(R) || R <- Refs],
            N
        end
     || _ <- lists:seq(1, 5)
    ],
    ?assertEqual([4, 4, 4, 4, 4], Threads),
    py_context:stop(C).

stop_answers_what_runs_and_waits(_) ->
    C = py_test_lib:context(#{threads => 2}),
    ok = py:exec(C, <<"def forever():\n    while True: pass">>),
    Running = [py:spawn_call(C, '__main__', forever, []) || _ <- [1, 2]],
    py_test_lib:running({C, 2}),
    Waiting = [py:spawn_call(C, builtins, abs, [I]) || I <- lists:seq(1, 1000)],
    py_context:stop(C),
    [{error, stopped} = py:await(R) || R <- Waiting],
    [{error, stopped} = py:await(R) || R <- Running].

stop_of_a_stuck_context(_) ->
    C = py_test_lib:context(#{threads => 1}),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    Stuck = py:spawn_call(C, M, F, A),
    py_test_lib:running({C, 1}),
    Waiting = py:spawn_call(C, builtins, abs, [1]),
    py_test_lib:abandoning(fun() -> py_context:stop(C) end),
    {error, stopped} = py:await(Waiting),
    {error, {stopped, abandoned}} = py:await(Stuck),
    Release().

%% Those that stood by leave by themselves; while they do, the queue is being answered.
stop_with_standby_workers(_) ->
    [
        begin
            C = py_test_lib:context(#{threads => 6}),
            Blockers = [py_test_lib:blocker(C) || _ <- lists:seq(1, 5)],
            Refs = [py:spawn_call(C, M, F, A) || {{M, F, A}, _} <- Blockers],
            py_test_lib:running({C, 5}),
            [Release() || {_, Release} <- Blockers],
            [{ok, <<"x">>} = py:await(R) || R <- Refs],
            ok = py:exec(C, <<"import time">>),
            Sleeping = py:spawn_call(C, time, sleep, [0.02]),
            Waiting = [py:spawn_call(C, builtins, abs, [I]) || I <- lists:seq(1, 5000)],
            py_context:stop(C),
            [
                case py:await(R) of
                    {error, stopped} -> ok;
                    {ok, _} -> ok
                end
             || R <- [Sleeping | Waiting]
            ]
        end
     || _ <- lists:seq(1, 5)
    ].

owner_killed_while_calls_run(_) ->
    [
        begin
            C = py_test_lib:context(#{threads => 2}),
            ok = py:exec(C, <<"def forever():\n    while True: pass">>),
            Running = [py:spawn_call(C, '__main__', forever, []) || _ <- [1, 2]],
            py_test_lib:running({C, 2}),
            end_it(C, kill),
            [{error, stopped} = py:await(R) || R <- Running],
            {error, noproc} = py:call(C, builtins, abs, [1])
        end
     || _ <- lists:seq(1, 10)
    ].

owner_killed_with_a_full_queue(_) ->
    C = py_test_lib:context(#{threads => 1, max_queue => infinity}),
    ok = py:exec(C, <<"def forever():\n    while True: pass">>),
    Callers = [
        spawn_monitor(fun() -> {error, stopped} = py:call(C, '__main__', forever, [], #{}, infinity) end)
     || _ <- lists:seq(1, 2000)
    ],
    py_test_lib:eventually(fun() -> #{queued := 1999} = py_context:info(C) end),
    end_it(C, kill),
    [
        receive
            {'DOWN', Monitor, process, Pid, Reason} -> ?assertEqual(normal, Reason)
        end
     || {Pid, Monitor} <- Callers
    ].

%% Too many to be answered in one go; another context goes on meanwhile.
stop_with_tens_of_thousands_waiting(_) ->
    [
        begin
            C = py_test_lib:context(#{threads => 1, max_queue => infinity}),
            ok = py:exec(C, <<"def forever():\n    while True: pass">>),
            Running = py:spawn_call(C, '__main__', forever, []),
            py_test_lib:running({C, 1}),
            Waiting = [py:spawn_call(C, builtins, abs, [1]) || _ <- lists:seq(1, 30000)],
            Casts = [py:cast(C, builtins, abs, [1]) || _ <- lists:seq(1, 100)],
            ?assertEqual([ok], lists:usort(Casts)),
            End(C),
            {ok, 1} = py:call(builtins, abs, [-1]),
            [{error, stopped} = py:await(R) || R <- [Running | Waiting]],
            {error, noproc} = py:call(C, builtins, abs, [1])
        end
     || End <- [fun py_context:stop/1, fun(C) -> end_it(C, kill) end]
    ].

started_by_a_process_that_dies(_) ->
    Self = self(),
    Pid = spawn(fun() ->
        {ok, C} = py_context:start_link(#{}),
        Self ! {context, C},
        receive
            never -> ok
        end
    end),
    C = receive
        {context, Started} -> Started
    end,
    {ok, 1} = py:eval(C, <<"1">>),
    Monitor = monitor(process, C),
    exit(Pid, kill),
    receive
        {'DOWN', Monitor, process, C, killed} -> ok
    end,
    {error, noproc} = py:eval(C, <<"1">>).

linked_exit_ends_it(_) ->
    C = py_test_lib:context(#{}),
    Monitor = monitor(process, C),
    _ = spawn(fun() -> link(C) end),
    {Pid, M} = spawn_monitor(fun() -> link(C), exit(boom) end),
    receive
        {'DOWN', M, process, Pid, boom} -> ok
    end,
    receive
        {'DOWN', Monitor, process, C, boom} -> ok
    end.

default_context_is_restarted(_) ->
    Own = py_test_lib:context(#{}),
    ok = py:exec(Own, <<"mine = 1">>),
    [
        begin
            Old = py:context(),
            end_it(Old, How),
            New = py_test_lib:eventually(fun() ->
                New = py:context(),
                true = New =/= Old,
                {ok, 1} = py:eval(<<"1">>),
                New
            end),
            New = py:context(default),
            {ok, 1} = py:eval(Own, <<"mine">>)
        end
     || How <- [kill, stop, kill]
    ],
    py_context:stop(Own).

registry_is_restarted(_) ->
    C = py_test_lib:context(#{name => before_the_crash}),
    Old = whereis(py_context_registry),
    end_it(Old, kill),
    py_test_lib:eventually(fun() -> true = is_pid(whereis(py_context_registry)) end),
    C = py:context(before_the_crash),
    {ok, 1} = py:eval(C, <<"1">>),
    end_it(C, kill),
    py_test_lib:eventually(fun() -> undefined = py_context:info(C) end),
    {ok, 1} = py:eval(<<"1">>).

killed_contexts_leave_no_trace(_) ->
    Listed = length(py_context:list()),
    Contexts = [py_test_lib:context(#{}) || _ <- lists:seq(1, 50)],
    [end_it(C, kill) || C <- Contexts],
    py_test_lib:eventually(fun() -> ?assertEqual(Listed, length(py_context:list())) end),
    py_test_lib:eventually(fun() ->
        _ = [erlang:garbage_collect(P) || P <- processes()],
        ?assertMatch(#{contexts := Listed}, py_nif:counters())
    end).

thousand_contexts_started_and_stopped(_) ->
    py_test_lib:parallel(4, fun(P) ->
        [
            begin
                C = py_test_lib:context(#{}),
                {ok, I} = py:eval(C, <<"x">>, #{x => I}),
                end_it(C, element(1 + I rem 2, {stop, kill}))
            end
         || I <- lists:seq(P, 1000, 4)
        ]
    end).

thousand_contexts_at_once(_) ->
    Contexts = [py_test_lib:context(#{spin_us => 0}) || _ <- lists:seq(1, 1000)],
    [ok = py:exec(C, [<<"x = ">>, integer_to_list(I)]) || {I, C} <- lists:zip(lists:seq(1, 1000), Contexts)],
    [{ok, I} = py:eval(C, <<"x">>) || {I, C} <- lists:zip(lists:seq(1, 1000), Contexts)],
    [py_context:stop(C) || C <- Contexts],
    py_test_lib:eventually(fun() -> true = length(py_test_lib:threads()) < 30 end).
