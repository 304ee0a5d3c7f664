%% Deadlines, interrupts, cancels and the death of callers: the Python really stops, only the request that was meant,
%% and every request has exactly one answer.
-module(py_deadline_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).


suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        endless_loop_frees_its_core,
        blocked_in_c_is_abandoned_and_replaced,
        context_of_one_thread_goes_on_after_each_write_off,
        swallowed_interrupt_is_sent_again,
        swallowing_loop_is_abandoned_and_still_stopped,
        cleanup_runs_to_its_end,
        interrupt_stops_what_runs_and_nothing_later,
        interrupt_of_an_idle_context_hits_nobody,
        interrupts_never_hit_the_next_request,
        timeouts_never_hit_the_next_request,
        cancels_never_hit_the_next_request,
        interrupt_while_the_result_is_converted,
        death_of_the_caller_stops_what_runs,
        death_of_the_caller_drops_what_waits,
        no_late_reply_in_any_mailbox,
        timeout_zero,
        timeout_infinity,
        timeouts_inside_timeouts,
        queued_request_times_out_behind_a_stuck_worker,
        queued_request_times_out_in_a_moving_queue,
        queued_request_is_cancelled,
        cast_runs_on_without_its_caller,
        deadline_of_eval_and_exec,
        deadline_while_importing,
        a_del_that_hangs_does_not_hide_the_next_request,
        thread_of_a_lost_worker_ends
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

init_per_testcase(_Case, Config) ->
    C = py_test_lib:context(#{threads => 4}),
    ok = py:exec(C, <<
        "import time, threading\n"
        "def forever():\n"
        "    while True: pass\n"
        "def ident(x): return x\n"
    >>),
    [{context, C} | Config].

end_per_testcase(_Case, Config) ->
    py_context:stop(proplists:get_value(context, Config)),
    py_test_lib:no_messages().

c(Config) -> proplists:get_value(context, Config).

abandoned(C, {M, F, A}) ->
    {error, {timeout, abandoned}} = py_test_lib:abandoning(fun() ->
        py_test_lib:begun(fun(Ms) -> py:call(C, M, F, A, #{}, Ms) end, {error, timeout})
    end).

endless_loop_frees_its_core(Config) ->
    C = c(Config),
    {error, timeout} = py:call(C, '__main__', forever, [], #{}, 30),
    #{running := [], lost_workers := 0} = py_context:info(C),
    {ok, 1} = py:call(C, '__main__', ident, [1]).

%% time.sleep cannot be interrupted from outside; a pipe that nobody writes to neither.
blocked_in_c_is_abandoned_and_replaced(Config) ->
    C = c(Config),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    abandoned(C, {M, F, A}),
    #{lost_workers := 1} = py_context:info(C),
    {ok, 2} = py:call(C, '__main__', ident, [2]),
    Release(),
    py_test_lib:eventually(fun() -> #{running := []} = py_context:info(C) end).

context_of_one_thread_goes_on_after_each_write_off(_) ->
    C = py_test_lib:context(#{threads => 1}),
    Releases = [
        begin
            {{M, F, A}, Release} = py_test_lib:blocker(C),
            abandoned(C, {M, F, A}),
            {ok, 4.0} = py:call(C, math, sqrt, [16]),
            #{workers := 1} = py_context:info(C),
            Release
        end
     || _ <- lists:seq(1, 3)
    ],
    [Release() || Release <- Releases],
    {ok, 4.0} = py:call(C, math, sqrt, [16]),
    #{lost_workers := 3} = py_context:info(C),
    py_context:stop(C).

swallowed_interrupt_is_sent_again(Config) ->
    ok = py:exec(c(Config), <<
        "def swallows_once():\n"
        "    try:\n"
        "        forever()\n"
        "    except BaseException:\n"
        "        forever()\n"
    >>),
    {error, timeout} = py:call(c(Config), '__main__', swallows_once, [], #{}, 10),
    #{lost_workers := 0} = py_context:info(c(Config)).

%% It is given up as lost, but not left alone: when it lets an interrupt through, its thread ends.
swallowing_loop_is_abandoned_and_still_stopped(Config) ->
    C = c(Config),
    ok = py:exec(C, <<
        "swallow = True\n"
        "def spins():\n"
        "    while True:\n"
        "        try:\n"
        "            while True: pass\n"
        "        except BaseException:\n"
        "            if not swallow: raise\n"
        "def swallows():\n" %% also what falls on spins() where it handles the one before
        "    while True:\n"
        "        try:\n"
        "            spins()\n"
        "        except BaseException:\n"
        "            if not swallow: raise\n"
    >>),
    abandoned(C, {'__main__', swallows, []}),
    {ok, 1} = py:call(C, '__main__', ident, [1]),
    ok = py:exec(C, <<"swallow = False">>),
    py_test_lib:eventually(fun() -> #{requests := 0} = py_nif:counters() end).

cleanup_runs_to_its_end(Config) ->
    C = c(Config),
    ok = py:exec(C, <<
        "log = []\n"
        "def cleans():\n"
        "    try:\n"
        "        log.append('began')\n"
        "        forever()\n"
        "    except Exception:\n"
        "        log.append('an Exception')\n"
        "    finally:\n"
        "        for _ in range(10000): pass\n"
        "        log.append('cleaned')\n"
    >>),
    Ref = py:spawn_call(C, '__main__', cleans, []),
    py_test_lib:eventually(fun() -> {ok, [<<"began">>]} = py:eval(C, <<"log">>) end),
    ok = py:interrupt(C),
    {error, interrupted} = py:await(Ref),
    {ok, [<<"began">>, <<"cleaned">>]} = py:eval(C, <<"log">>).

interrupt_stops_what_runs_and_nothing_later(Config) ->
    C = c(Config),
    Refs = [py:spawn_call(C, '__main__', forever, []) || _ <- lists:seq(1, 3)],
    py_test_lib:running({C, 3}),
    ok = py:interrupt(C),
    [{error, interrupted} = py:await(R) || R <- Refs],
    {ok, 1} = py:call(C, '__main__', ident, [1]).

interrupt_of_an_idle_context_hits_nobody(Config) ->
    [
        begin
            ok = py:interrupt(c(Config)),
            {ok, I} = py:call(c(Config), '__main__', ident, [I])
        end
     || I <- lists:seq(1, 200)
    ].

%% Thousands of calls while interrupts fall on them at any moment: one that is hit says so, every other one is right,
%% and none says so unless an interrupt was sent while it ran.
interrupts_never_hit_the_next_request(Config) ->
    C = c(Config),
    Sender = spawn_link(fun() -> interrupt_often(C, 1) end),
    Counts = py_test_lib:parallel(4, fun(P) -> hit(C, P, 3000, 0, 0) end),
    unlink(Sender),
    exit(Sender, kill),
    [?assertEqual(3000, Right + Hit) || {Right, Hit} <- Counts],
    [{ok, I} = py:call(C, '__main__', ident, [I]) || I <- lists:seq(1, 100)],
    #{lost_workers := 0} = py_context:info(C).

interrupt_often(C, N) ->
    ok = py:interrupt(C),
    receive
    after N rem 3 -> interrupt_often(C, N + 1)
    end.

hit(_C, _P, 0, Right, Hit) ->
    {Right, Hit};
hit(C, P, N, Right, Hit) ->
    case py:call(C, '__main__', ident, [{P, N}]) of
        {ok, {P, N}} -> hit(C, P, N - 1, Right + 1, Hit);
        {error, interrupted} -> hit(C, P, N - 1, Right, Hit + 1)
    end.

%% One process in two has calls that end by their deadline, the other has none that may.
timeouts_never_hit_the_next_request(Config) ->
    C = c(Config),
    py_test_lib:parallel(6, fun
        (P) when P =< 2 ->
            [{error, timeout} = py:call(C, '__main__', forever, [], #{}, I rem 4) || I <- lists:seq(1, 60)];
        (P) ->
            [{ok, {P, I}} = py:call(C, '__main__', ident, [{P, I}]) || I <- lists:seq(1, 3000)]
    end),
    #{lost_workers := 0} = py_context:info(C).

cancels_never_hit_the_next_request(Config) ->
    C = c(Config),
    py_test_lib:parallel(4, fun
        (1) ->
            [
                begin
                    Ref = py:spawn_call(C, '__main__', forever, []),
                    {error, timeout} = py:await(Ref, I rem 3)
                end
             || I <- lists:seq(1, 100)
            ];
        (2) ->
            [
                begin
                    Ref = py:spawn_call(C, '__main__', ident, [I]),
                    case py:await(Ref, 0) of
                        {ok, I} -> ok;
                        {error, timeout} -> ok
                    end
                end
             || I <- lists:seq(1, 3000)
            ];
        (P) ->
            [{ok, {P, I}} = py:call(C, '__main__', ident, [{P, I}]) || I <- lists:seq(1, 3000)]
    end),
    #{lost_workers := 0} = py_context:info(C).

interrupt_while_the_result_is_converted(Config) ->
    C = c(Config),
    ok = py:exec(C, <<
        "from collections.abc import Mapping\n"
        "class Slow(Mapping):\n"
        "    def __len__(self): return 1\n"
        "    def __iter__(self): forever()\n"
        "    def __getitem__(self, k): return k\n"
        "class SlowText(Exception):\n"
        "    def __str__(self): forever()\n"
        "def slow_text(): raise SlowText()\n"
    >>),
    {error, timeout} = py:call(C, '__main__', 'Slow', [], #{}, 10),
    {error, timeout} = py:call(C, '__main__', slow_text, [], #{}, 10),
    {ok, 1} = py:call(C, '__main__', ident, [1]).

death_of_the_caller_stops_what_runs(Config) ->
    C = c(Config),
    Callers = [
        begin
            {Pid, Monitor} = spawn_monitor(fun() -> py:call(C, '__main__', forever, [], #{}, infinity) end),
            py_test_lib:running({C, 1}),
            exit(Pid, kill),
            receive
                {'DOWN', Monitor, process, Pid, killed} -> Pid
            end,
            py_test_lib:running({C, 0})
        end
     || _ <- lists:seq(1, 3)
    ],
    3 = length(Callers),
    py_test_lib:eventually(fun() -> #{requests := 0} = py_nif:counters() end).

death_of_the_caller_drops_what_waits(_) ->
    C = py_test_lib:context(#{threads => 1}),
    ok = py:exec(C, <<"ran = []">>),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    Ref = py:spawn_call(C, M, F, A),
    py_test_lib:running({C, 1}),
    Pids = [spawn(fun() -> py:call(C, '__main__', 'ran.append', [I]) end) || I <- lists:seq(1, 50)],
    py_test_lib:eventually(fun() -> #{queued := 50} = py_context:info(C) end),
    [exit(Pid, kill) || Pid <- Pids],
    %% what waits is looked at when 20 ms went by
    py_test_lib:eventually(fun() -> [] = [P || P <- Pids, is_process_alive(P)] end),
    timer:sleep(40),
    Release(),
    {ok, <<"x">>} = py:await(Ref),
    {ok, []} = py:eval(C, <<"ran">>),
    py_context:stop(C).

no_late_reply_in_any_mailbox(Config) ->
    C = c(Config),
    py_test_lib:parallel(20, fun(P) ->
        [
            case py:await(py:spawn_call(C, time, sleep, [0.001 * (I rem 4)]), (P + I) rem 4) of
                {ok, none} -> ok;
                {error, timeout} -> ok
            end
         || I <- lists:seq(1, 50)
        ],
        _ = [py:call(C, '__main__', ident, [1], #{}, I rem 2) || I <- lists:seq(1, 50)],
        py_test_lib:eventually(fun() -> #{queued := 0, running := []} = py_context:info(C) end),
        py_test_lib:no_messages()
    end).

timeout_zero(Config) ->
    C = c(Config),
    Calls = [{forever, []}, {ident, [1]}],
    [{error, timeout} = py:call(C, '__main__', F, A, #{}, 0) || {F, A} <- Calls, _ <- [1, 2, 3]],
    {error, timeout} = py:eval(C, <<"1">>, #{}, 0),
    {ok, 1} = py:call(C, '__main__', ident, [1]).

timeout_infinity(Config) ->
    {ok, none} = py:call(c(Config), time, sleep, [0.02], #{}, infinity),
    {ok, none} = py:await(py:spawn_call(c(Config), time, sleep, [0.02]), infinity).

timeouts_inside_timeouts(Config) ->
    C = c(Config),
    ok = py:exec(C, <<
        "def inner():\n"
        "    t = threading.Thread(target=ident, args=(1,))\n"
        "    t.start(); t.join()\n"
        "    forever()\n"
    >>),
    {Outer, Monitor} = spawn_monitor(fun() ->
        {error, timeout} = py:call(C, '__main__', inner, [], #{}, 20),
        Ref = py:spawn_call(C, '__main__', forever, []),
        {error, timeout} = py:await(Ref, 20),
        py_test_lib:no_messages()
    end),
    receive
        {'DOWN', Monitor, process, Outer, Reason} -> ?assertEqual(normal, Reason)
    end.

queued_request_times_out_behind_a_stuck_worker(_) ->
    C = py_test_lib:context(#{threads => 1}),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    Stuck = py:spawn_call(C, M, F, A),
    py_test_lib:running({C, 1}),
    Results = py_test_lib:parallel(20, fun(I) -> py:call(C, builtins, abs, [I], #{}, I) end),
    ?assertEqual([{error, timeout}], lists:usort(Results)),
    #{queued := 0} = py_context:info(C),
    Release(),
    {ok, <<"x">>} = py:await(Stuck),
    py_context:stop(C).

%% The queue moves all the time, but not fast enough for those at its end.
queued_request_times_out_in_a_moving_queue(_) ->
    C = py_test_lib:context(#{threads => 1}),
    ok = py:exec(C, <<"ran = 0\ndef slow(hurry):\n    global ran\n    hurry.wait(0.002)\n    ran += 1\n">>),
    {ok, Hurry} = py:call(C, threading, 'Event', []),
    Refs = [py:spawn_call(C, '__main__', slow, [Hurry]) || _ <- lists:seq(1, 300)],
    {error, timeout} = py:call(C, '__main__', slow, [Hurry], #{}, 50),
    {ok, none} = py:call_method(Hurry, set, []),
    [{ok, none} = py:await(R) || R <- Refs],
    {ok, 300} = py:eval(C, <<"ran">>),
    py_context:stop(C).

queued_request_is_cancelled(_) ->
    C = py_test_lib:context(#{threads => 1}),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    Stuck = py:spawn_call(C, M, F, A),
    py_test_lib:running({C, 1}),
    Refs = [py:spawn_call(C, builtins, abs, [I]) || I <- lists:seq(1, 10)],
    {Even, Odd} = lists:partition(fun({I, _}) -> I rem 2 =:= 0 end, lists:zip(lists:seq(1, 10), Refs)),
    [{error, timeout} = py:await(R, 0) || {_, R} <- Even],
    [cancelled = py_nif:cancel(R, false) || {I, R} <- Odd, I < 5],
    Release(),
    {ok, <<"x">>} = py:await(Stuck),
    [{error, cancelled} = py:await(R) || {I, R} <- Odd, I < 5],
    [{ok, I} = py:await(R) || {I, R} <- Odd, I >= 5],
    [done = py_nif:cancel(R, true) || R <- Refs],
    py_context:stop(C).

cast_runs_on_without_its_caller(Config) ->
    C = c(Config),
    ok = py:exec(C, <<"go, done = threading.Event(), threading.Event()\n"
                      "def job():\n    go.wait(60)\n    done.set()\n">>),
    {Pid, Monitor} = spawn_monitor(fun() -> ok = py:cast(C, '__main__', job, []) end),
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok
    end,
    timer:sleep(60), %% longer than callers may be dead
    {ok, none} = py:call(C, '__main__', 'go.set', []),
    {ok, true} = py:call(C, '__main__', 'done.wait', [60]).

deadline_of_eval_and_exec(Config) ->
    C = c(Config),
    {error, timeout} = py:eval(C, <<"[0 for _ in iter(int, 1)]">>, #{}, 20),
    {error, timeout} = py:exec(C, <<"while True: pass">>, 20),
    {error, timeout} = py:exec(C, <<"while True: pass">>, #{timeout => 20}),
    {ok, 1} = py:eval(C, <<"1">>).

deadline_while_importing(Config) ->
    M = py_test_lib:module(Config, "never_ends_mod", "while True: pass\n"),
    {error, timeout} = py:call(c(Config), M, f, [], #{}, 20),
    _ = py_test_lib:module(Config, "never_ends_mod", "def f(): return 'now it does'\n"),
    {ok, <<"now it does">>} = py:call(c(Config), M, f, []).

%% Dropping a ref runs its __del__ on a worker, between requests: the watchdog must see that worker too.
a_del_that_hangs_does_not_hide_the_next_request(_) ->
    C = py_test_lib:context(#{threads => 1}),
    ok = py:exec(C, <<
        "import time\n"
        "class Slow:\n"
        "    def __del__(self):\n"
        "        end = time.monotonic() + 0.3\n"
        "        while time.monotonic() < end: pass\n"
    >>),
    [
        begin
            {Pid, Monitor} = spawn_monitor(fun() -> {ok, _} = py:call(C, '__main__', 'Slow', []) end),
            receive
                {'DOWN', Monitor, process, Pid, normal} -> ok
            end,
            {ok, 1} = py:call(C, builtins, abs, [-1], #{}, 60000)
        end
     || _ <- lists:seq(1, 3)
    ],
    py_context:stop(C).

thread_of_a_lost_worker_ends(_) ->
    C = py_test_lib:context(#{threads => 1}),
    {{M, F, A}, Release} = py_test_lib:blocker(C),
    abandoned(C, {M, F, A}),
    {ok, 1} = py:call(C, builtins, abs, [-1]),
    Workers = workers(),
    Release(),
    py_test_lib:eventually(fun() -> ?assertEqual(Workers - 1, workers()) end),
    py_context:stop(C),
    py_test_lib:eventually(fun() -> ?assertEqual(Workers - 2, workers()) end).

workers() ->
    length([T || "py_worker" = T <- py_test_lib:threads()]).
