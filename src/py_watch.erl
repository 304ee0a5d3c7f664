%% Finds requests that run too long and names the Python line they are at: the application's environment `slow_call_ms`
%% (default infinity: nothing runs). Each such request is logged once, as a warning.
-module(py_watch).
-behaviour(gen_server).

-export([start_link/0]).
-export([slow_call_ms/1]).

-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-record(state, {
    limit = infinity :: timeout(),
    reported = #{} :: #{non_neg_integer() => true},
    timer = undefined :: reference() | undefined
}).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Changes the limit, in ms, while the system runs.
-spec slow_call_ms(timeout()) -> ok.
slow_call_ms(Limit) ->
    gen_server:call(?MODULE, {limit, Limit}).

-spec init([]) -> {ok, #state{}}.
init([]) ->
    {ok, schedule(#state{limit = application:get_env(erlang_python, slow_call_ms, infinity)})}.

-spec handle_call({limit, timeout()}, gen_server:from(), #state{}) -> {reply, ok, #state{}}.
handle_call({limit, Limit}, _From, State) ->
    {reply, ok, schedule(State#state{limit = Limit})}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Cast, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({timeout, Timer, look}, #state{timer = Timer} = State) ->
    {noreply, schedule(look(State))};
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
        #{running := Running, name := Name} = Info <- [py_context:info(Pid)],
        Name =/= admin,
        #{age_us := Age} = Request <- Running,
        Age >= Limit * 1000
    ],
    New = [Found || {#{id := Id}, _} = Found <- Slow, not is_map_key(Id, Reported)],
    report(New),
    State#state{reported = maps:from_list([{Id, true} || {#{id := Id}, _} <- Slow])}.

-spec report([{map(), map()}]) -> ok.
report([]) ->
    ok;
report(New) ->
    Stacks =
        case py:call(py:admin_context(), 'erlang._admin', stacks_by_thread, []) of
            {ok, Found} -> Found;
            {error, _} -> #{}
        end,
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
