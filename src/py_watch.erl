%% Finds requests that run too long (the application's environment `slow_call_ms`) and event loops that one callback keeps
%% busy (`blocked_loop_ms`), and names the Python line they are at. Each is logged once, as a warning. Both are infinity by
%% default: nothing runs.
-module(py_watch).
-behaviour(gen_server).

-export([start_link/0]).
-export([slow_call_ms/1]).
-export([blocked_loop_ms/1]).

-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-record(state, {
    limit = infinity :: timeout(),
    reported = #{} :: #{non_neg_integer() => true},
    timer = undefined :: reference() | undefined,
    loop_limit = infinity :: timeout(),
    loops = #{} :: loops(),
    loop_timer = undefined :: reference() | undefined
}).

%% By thread: how often the loop had polled, and whether it waits or has been told of.
-type loops() :: #{integer() => {integer(), busy | waiting | told}}.

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Changes the limit, in ms, while the system runs.
-spec slow_call_ms(timeout()) -> ok.
slow_call_ms(Limit) ->
    gen_server:call(?MODULE, {limit, Limit}).

%% The same for loops.
-spec blocked_loop_ms(timeout()) -> ok.
blocked_loop_ms(Limit) ->
    gen_server:call(?MODULE, {loop_limit, Limit}).

-spec init([]) -> {ok, #state{}}.
init([]) ->
    Limit = application:get_env(erlang_python, slow_call_ms, infinity),
    LoopLimit = application:get_env(erlang_python, blocked_loop_ms, infinity),
    {ok, schedule_loops(schedule(#state{limit = Limit, loop_limit = LoopLimit}))}.

-spec handle_call({limit | loop_limit, timeout()}, gen_server:from(), #state{}) -> {reply, ok, #state{}}.
handle_call({limit, Limit}, _From, State) ->
    {reply, ok, schedule(State#state{limit = Limit})};
handle_call({loop_limit, Limit}, _From, State) ->
    {reply, ok, schedule_loops(State#state{loop_limit = Limit, loops = #{}})}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Cast, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({timeout, Timer, look}, #state{timer = Timer} = State) ->
    {noreply, schedule(look(State))};
handle_info({timeout, Timer, look_at_loops}, #state{loop_timer = Timer} = State) ->
    {noreply, schedule_loops(look_at_loops(State))};
handle_info(_Info, State) ->
    {noreply, State}.

-spec schedule(#state{}) -> #state{}.
schedule(#state{timer = Old} = State) when is_reference(Old) ->
    _ = erlang:cancel_timer(Old),
    schedule(State#state{timer = undefined});
schedule(#state{limit = infinity} = State) ->
    State;
schedule(#state{limit = Limit} = State) ->
    State#state{timer = erlang:start_timer(max(10, Limit div 2), self(), look)}.

-spec look(#state{}) -> #state{}.
look(#state{limit = Limit, reported = Reported} = State) ->
    Slow = [
        {Request, Info}
     || Pid <- py_context:list(),
        #{running := Running, name := Name, node := Node} = Info <- [py_context:info(Pid)],
        Name =/= admin,
        Node =:= node(), %% another one looks itself
        #{age_us := Age} = Request <- Running,
        Age >= Limit * 1000
    ],
    New = [Found || {#{id := Id}, _} = Found <- Slow, not is_map_key(Id, Reported)],
    report(New),
    State#state{reported = maps:from_list([{Id, true} || {#{id := Id}, _} <- Slow])}.

-spec schedule_loops(#state{}) -> #state{}.
schedule_loops(#state{loop_timer = Old} = State) when is_reference(Old) ->
    _ = erlang:cancel_timer(Old),
    schedule_loops(State#state{loop_timer = undefined});
schedule_loops(#state{loop_limit = infinity} = State) ->
    State;
schedule_loops(#state{loop_limit = Limit} = State) ->
    State#state{loop_timer = erlang:start_timer(Limit, self(), look_at_loops)}.

%% A loop that has not polled since the last look, and did not wait then nor now, has been busy with one step all the time.
-spec look_at_loops(#state{}) -> #state{}.
look_at_loops(#state{loops = Before, loop_limit = Limit} = State) ->
    Now = maps:map(fun(_, {Steps, Waits}) -> {Steps, if Waits -> waiting; true -> busy end} end, by_thread(loop_steps)),
    Blocked = [Thread || {Thread, {_, busy} = Same} <- maps:to_list(Now), maps:get(Thread, Before, none) =:= Same],
    report_loops(Blocked, Limit),
    Told = maps:from_list([{Thread, setelement(2, maps:get(Thread, Now), told)} || Thread <- Blocked]),
    State#state{loops = maps:merge(maps:map(fun(Thread, At) -> still_told(At, maps:get(Thread, Before, none)) end, Now), Told)}.

-spec still_told({integer(), busy | waiting}, term()) -> {integer(), busy | waiting | told}.
still_told({Steps, busy}, {Steps, told}) -> {Steps, told};
still_told(At, _) -> At.

-spec report_loops([integer()], timeout()) -> ok.
report_loops([], _) ->
    ok;
report_loops(Threads, Limit) ->
    Stacks = stacks(),
    lists:foreach(
        fun(Thread) ->
            Place = place(maps:get(Thread, Stacks, [])),
            logger:warning("an event loop has been blocked for more than ~b ms, now at ~ts", [Limit, Place])
        end,
        Threads
    ).

-spec stacks() -> #{integer() => [binary()]}.
stacks() ->
    by_thread(stacks_by_thread).

%% Of all interpreters.
-spec by_thread(atom()) -> #{integer() => term()}.
by_thread(Function) ->
    Main = py:call(py_interpreter:admin_context(), 'erlang._admin', Function, []),
    Answers = [Main | [Answer || {_, _, Answer} <- py_interpreter:ask(Function)]],
    lists:foldl(fun maps:merge/2, #{}, [Found || {ok, Found} <- Answers]).

-spec report([{map(), map()}]) -> ok.
report([]) ->
    ok;
report(New) ->
    Stacks = stacks(),
    lists:foreach(
        fun({#{thread := Thread, module := M, function := F, caller := Caller, age_us := Age}, #{pid := Context, name := Name}}) ->
            logger:warning(
                "slow Python call ~tp:~tp of ~p, ~b ms in context ~p (~tp), now at ~ts",
                [M, F, Caller, Age div 1000, Context, Name, place(maps:get(Thread, Stacks, []))],
                #{pid => Caller}
            )
        end,
        New
    ).

-spec place([binary()]) -> unicode:chardata().
place([]) -> "no Python code";
place(Lines) -> lists:last(Lines).
