%% The promise of the queue, against random use: whatever is submitted, cancelled, interrupted, stopped and killed,
%% every request that was taken is answered exactly once, with an answer that its history allows, and nothing stays
%% behind.
-module(py_model_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(RUNS, 12).
-define(CLIENTS, 12).
-define(STEPS, 40).

suite() ->
    [{timetrap, {minutes, 3}}].

all() ->
    [
        every_request_is_answered_once,
        one_thread,
        short_queue,
        contexts_come_and_go
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

every_request_is_answered_once(_) -> runs(#{threads => 4}, [call, spawned, cancelled, endless, sleeps, dies, interrupt]).
one_thread(_) -> runs(#{threads => 1}, [call, spawned, cancelled, endless, sleeps, dies]).
short_queue(_) -> runs(#{threads => 2, max_queue => 4}, [call, spawned, cancelled, sleeps, cast]).
contexts_come_and_go(_) -> runs(#{threads => 2}, [call, spawned, cancelled, endless, sleeps, dies, stop, kill]).

runs(Options, Kinds) ->
    [
        begin
            Seed = {erlang:unique_integer([positive]), erlang:system_time(), Run},
            try
                run(Options, Kinds, Seed)
            catch
                Class:Reason:Stack -> erlang:raise(Class, {seed, Seed, Reason}, Stack)
            end
        end
     || Run <- lists:seq(1, ?RUNS)
    ].

run(Options, Kinds, Seed) ->
    Holder = ets:new(contexts, [public]),
    start(Holder, Options),
    py_test_lib:parallel(?CLIENTS, fun(Client) ->
        _ = rand:seed(exsss, {erlang:phash2({Seed, Client}), Client, 1}),
        [client(Holder, Options, pick(Kinds), {Client, Step}) || Step <- lists:seq(1, ?STEPS)],
        py_test_lib:no_messages()
    end),
    [{context, C}] = ets:lookup(Holder, context),
    py_test_lib:eventually(fun() -> #{queued := 0, running := []} = py_context:info(C) end),
    {ok, last} = py:call(C, '__main__', ident, [last]),
    py_context:stop(C),
    true = ets:delete(Holder),
    py_test_lib:eventually(fun() -> #{requests := 0} = py_nif:counters() end).

start(Holder, Options) ->
    C = py_test_lib:context(Options),
    ok = py:exec(C, <<
        "import time\n"
        "def ident(x): return x\n"
        "def endless():\n"
        "    while True: pass\n"
        "def sleeps(ms, x):\n"
        "    time.sleep(ms / 1000)\n"
        "    return x\n"
    >>),
    true = ets:insert(Holder, {context, C}).

pick(List) -> lists:nth(rand:uniform(length(List)), List).

client(Holder, Options, Kind, Id) ->
    [{context, C}] = ets:lookup(Holder, context),
    step(Kind, C, Id, Holder, Options).

step(call, C, Id, _, _) ->
    Timeout = pick([0, 1, 5, 1000, infinity]),
    allow(py:call(C, '__main__', ident, [Id], #{}, Timeout), [{ok, Id} | [timeout || Timeout =/= infinity]]);
step(spawned, C, Id, _, _) ->
    Refs = [{I, py:spawn_call(C, '__main__', ident, [{Id, I}])} || I <- lists:seq(1, rand:uniform(8))],
    [allow(py:await(R, pick([0, 1, 1000, infinity])), [{ok, {Id, I}}, timeout]) || {I, R} <- lists:reverse(Refs)];
step(cancelled, C, Id, _, _) ->
    Ref = py:spawn_call(C, '__main__', sleeps, [rand:uniform(3) - 1, Id]),
    [erlang:yield() || _ <- lists:seq(1, rand:uniform(5))],
    Cancelled = py_nif:cancel(Ref, false),
    allow(py:await(Ref, infinity), [{ok, Id} | [cancelled || Cancelled =:= cancelled]]);
step(endless, C, _Id, _, _) ->
    allow(py:call(C, '__main__', endless, [], #{}, rand:uniform(5)), [timeout]);
step(sleeps, C, Id, _, _) ->
    allow(py:call(C, '__main__', sleeps, [rand:uniform(5), Id], #{}, pick([1, 3, 1000])), [{ok, Id}, timeout]);
step(cast, C, Id, _, _) ->
    allow(py:cast(C, '__main__', ident, [Id]), [ok]);
step(dies, C, Id, _, _) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        _ = py:spawn_call(C, '__main__', ident, [Id]),
        py:call(C, '__main__', pick([endless, ident]), [])
    end),
    [erlang:yield() || _ <- lists:seq(1, rand:uniform(20))],
    exit(Pid, kill),
    receive
        {'DOWN', Monitor, process, Pid, _} -> ok
    end;
step(interrupt, C, _Id, _, _) ->
    ok = py:interrupt(C);
step(Ending, C, {Client, _}, Holder, Options) when Client =:= 1 ->
    %% one client alone replaces the context, so that there is one
    start(Holder, Options),
    Monitor = monitor(process, C),
    case Ending of
        stop -> py_context:stop(C);
        kill -> exit(C, kill)
    end,
    receive
        {'DOWN', Monitor, process, C, _} -> ok
    end;
step(_Ending, C, Id, Holder, Options) ->
    step(call, C, Id, Holder, Options).

%% Beside its own results a request may always meet the end of its context or an interrupt.
allow(Result, Own) ->
    Reason =
        case Result of
            {error, R} -> R;
            _ -> Result
        end,
    Always = [interrupted, stopped, noproc, overloaded],
    Plain =
        case Reason of
            {R2, abandoned} -> R2;
            _ -> Reason
        end,
    ?assert(lists:member(Plain, Own ++ Always) orelse lists:member(Result, Own), {Result, Own}).
