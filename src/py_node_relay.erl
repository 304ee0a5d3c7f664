%% Stands on this node for a context on another one. Each request passes through it both ways, in the order in which it
%% was made, and it alone answers the caller: with what the server there says, {error, stopped} when the context or its
%% node ends, {error, {timeout, abandoned}} when the deadline has long passed and nothing was heard. So there is one
%% reply, whatever dies. It also starts the node (isolation => node), and another one where the options say so.
%%
%% When its context has ended it stays for a while and answers those that still had its handle.
-module(py_node_relay).
-behaviour(gen_server).

-export([start/3]).
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-define(LATE_MS, 5000).
-define(MAX_TIMER_MS, 16#7fffffff).
-define(LINGER_MS, 10000).
-define(OPEN_MS, 90000). %% for a context on another node to be ready
-define(EXIT_MS, 10000).
-define(RESTARTS, 5).
-define(RESTARTS_MS, 60000).

%% far: with refs of the other node in it.
-type payload() :: py_node:payload() | {far, py_node:payload()}.
-type kind() :: plain | tracked | cast | starting | stream.

-record(open, {
    caller :: pid(),
    monitor :: reference(),
    timer :: reference() | undefined,
    kind :: kind()
}).

-record(state, {
    owner :: pid(),
    isolation :: py_node:isolation(),
    options :: py_context:options(),
    counter :: counters:counters_ref(),
    peer :: pid() | undefined,
    server :: pid() | undefined, %% undefined: closed
    monitor :: reference() | undefined,
    origin :: {node(), Creation :: integer()} | undefined,
    open = #{} :: #{reference() => #open{}},
    monitors = #{} :: #{reference() => reference()},
    ends = [] :: [integer()], %% when its node ended, lately
    generation = 0 :: non_neg_integer() %% of the numbers of refs: those of a server that is gone mean nothing
}).

%% Linked to the caller, but no child of it, with which it would have to end at once.
-spec start(py_node:isolation(), py_context:options(), counters:counters_ref()) -> {ok, pid()} | {error, term()}.
start(Isolation, Options, Counter) ->
    gen_server:start(?MODULE, {self(), Isolation, Options, Counter}, [{timeout, infinity}]).

-spec init({pid(), py_node:isolation(), py_context:options(), counters:counters_ref()}) ->
    {ok, #state{}} | {stop, {shutdown, term()}}.
init({Owner, Isolation, Options, Counter}) ->
    process_flag(trap_exit, true),
    process_flag(message_queue_data, off_heap),
    true = link(Owner),
    case open(#state{owner = Owner, isolation = Isolation, options = Options, counter = Counter}) of
        {ok, State} ->
            true = ets:insert(py_node, {{relay, self()}}),
            {ok, State};
        {error, Reason} ->
            {stop, {shutdown, Reason}}
    end.

-spec handle_call(close, gen_server:from(), #state{}) -> {reply, ok, #state{}}.
handle_call(close, _From, State) ->
    {reply, ok, close(State)}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Cast, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, normal, #state{}}.
handle_info({request, Kind, Ref, Caller, Timeout, Payload, _KeptUntilItIsSent}, State) ->
    {noreply, request(Kind, Ref, Caller, Timeout, Payload, State)};
handle_info({far, Message}, State) ->
    handle_info(py_far:wrap(Message, self()), State);
handle_info({py_far, Id}, State) ->
    _ = to_server({drop, Id}, State),
    {noreply, State};
handle_info({more, Ref, Message}, #state{open = Open} = State) ->
    case Open of
        #{Ref := #open{caller = Caller, kind = starting} = Started} ->
            Caller ! Message,
            {noreply, State#state{open = Open#{Ref := Started#open{kind = stream}}}};
        #{Ref := #open{caller = Caller}} ->
            Caller ! Message,
            {noreply, State};
        #{} ->
            {noreply, State}
    end;
handle_info({last, Ref, Message}, State) ->
    {noreply, last(Ref, Message, State)};
handle_info({to_server, Ref, Message}, #state{open = Open} = State) ->
    is_map_key(Ref, Open) andalso to_server(Message, State),
    {noreply, State};
handle_info({cancel, Ref, Silent, From, Tag}, State) ->
    {noreply, cancel(Ref, Silent, From, Tag, State)};
handle_info({timeout, _, {late, Ref}}, State) ->
    _ = to_server({cancel, Ref, true}, State),
    {noreply, last(Ref, {Ref, {error, {timeout, abandoned}}}, State)};
handle_info({names, Names}, State) ->
    _ = to_server({names, Names}, State),
    {noreply, State};
handle_info({'DOWN', Monitor, process, _, Reason}, #state{monitor = Monitor} = State) ->
    {noreply, ended(Reason, State)};
handle_info({'DOWN', Monitor, process, _, _}, State) ->
    {noreply, caller_died(Monitor, State)};
handle_info({'EXIT', Owner, _}, #state{owner = Owner} = State) ->
    {noreply, close(State)};
handle_info(expire, State) ->
    {stop, normal, State};
handle_info(_Info, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, State) ->
    _ = close(State),
    true = ets:match_delete(py_node, {'_', self(), '_'}),
    ok.

%% ---- requests ----

-spec request(kind(), reference(), pid(), timeout(), payload(), #state{}) -> #state{}.
request(Kind, Ref, Caller, _Timeout, _Payload, #state{server = undefined} = State) ->
    Caller ! {Ref, {error, noproc}},
    forget(Kind, Ref, State);
request(Kind, Ref, Caller, Timeout, Payload, #state{open = Open, monitors = Monitors} = State) ->
    Monitor = monitor(process, Caller),
    Timer =
        case Timeout of
            infinity -> undefined;
            _ when Timeout > ?MAX_TIMER_MS -> undefined;
            _ -> erlang:start_timer(Timeout + late(), self(), {late, Ref})
        end,
    _ = to_server({request, Ref, of_chain(Payload, State)}, State),
    State#state{
        open = Open#{Ref => #open{caller = Caller, monitor = Monitor, timer = Timer, kind = Kind}},
        monitors = Monitors#{Monitor => Ref}
    }.

%% Beyond its deadline a request may take its grace and the way until its reply is here.
-spec late() -> non_neg_integer().
late() ->
    application:get_env(erlang_python, grace_ms, 250) + ?LATE_MS.

%% A chain that came from there goes on there; of another the trace and the callers do.
-spec of_chain(payload(), #state{}) -> term().
of_chain({far, Payload}, State) ->
    {far, of_chain(Payload, State)};
of_chain({control, _} = Payload, _State) ->
    Payload;
of_chain(Payload, #state{origin = Origin}) ->
    Last = tuple_size(Payload),
    Chain =
        case element(Last, Payload) of
            {{Origin, Inherited}, Trace, Callers} -> setelement(5, setelement(6, Inherited, Callers), Trace);
            {_, Trace, Callers} -> {py_chain, 0, 0, 0, Trace, Callers}
        end,
    setelement(Last, Payload, Chain).

-spec to_server(term(), #state{}) -> term().
to_server(_Message, #state{server = undefined}) -> ok;
to_server(Message, #state{server = Server}) -> Server ! Message.

-spec last(reference(), term(), #state{}) -> #state{}.
last(Ref, Message, #state{open = Open} = State) ->
    case Open of
        #{Ref := #open{caller = Caller}} ->
            Caller ! Message, %% before the table says that it is done
            drop(Ref, State);
        #{} ->
            State
    end.

-spec drop(reference(), #state{}) -> #state{}.
drop(Ref, #state{open = Open, monitors = Monitors} = State) ->
    {#open{monitor = Monitor, timer = Timer, kind = Kind}, Rest} = maps:take(Ref, Open),
    true = demonitor(Monitor, [flush]),
    Timer =:= undefined orelse erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    forget(Kind, Ref, State#state{open = Rest, monitors = maps:remove(Monitor, Monitors)}).

-spec forget(kind(), reference(), #state{}) -> #state{}.
forget(Kind, Ref, #state{counter = Counter} = State) ->
    ok = counters:sub(Counter, 1, 1),
    Kind =:= plain orelse Kind =:= cast orelse ets:delete(py_node, Ref),
    State.

-spec cancel(reference(), boolean(), pid(), reference(), #state{}) -> #state{}.
cancel(Ref, Silent, From, Tag, #state{open = Open} = State) when is_map_key(Ref, Open) ->
    _ = to_server({cancel, Ref, Silent}, State),
    From ! {Tag, cancelled},
    if
        Silent -> drop(Ref, State);
        true -> State
    end;
cancel(_Ref, _Silent, From, Tag, State) ->
    From ! {Tag, done},
    State.

-spec caller_died(reference(), #state{}) -> #state{}.
caller_died(Monitor, #state{monitors = Monitors, open = Open} = State) ->
    case Monitors of
        #{Monitor := Ref} ->
            case map_get(Ref, Open) of
                #open{kind = cast} -> ok;
                #open{kind = Kind} when Kind =:= starting; Kind =:= stream -> to_server({stream_cancel, Ref}, State);
                #open{} -> to_server({cancel, Ref, true}, State)
            end,
            drop(Ref, State);
        #{} ->
            State
    end.

%% ---- the other node ----

-spec open(#state{}) -> {ok, #state{}} | {error, term()}.
open(#state{isolation = node, options = Options} = State) ->
    Peer = maps:with([python, code_path, env, args, wrap, boot_ms], Options),
    case py_peer:start_link(Peer) of
        {ok, Pid, Node, _OsPid} ->
            case open_on(Node, State) of
                {ok, Opened} ->
                    {ok, Opened#state{peer = Pid}};
                {error, Reason} ->
                    true = unlink(Pid),
                    ok = py_peer:stop(Pid),
                    {error, Reason}
            end;
        {error, Reason} ->
            {error, Reason}
    end;
open(#state{isolation = {node, Node}} = State) ->
    open_on(Node, State).

-spec open_on(node(), #state{}) -> {ok, #state{}} | {error, term()}.
open_on(Node, #state{isolation = Isolation, options = Options, owner = Owner} = State) ->
    Given = maps:with([threads, spin_us, max_queue, binaries, sys_path, preload, loop], Options),
    %% on a node of its own nobody else uses that __main__
    Context = Given#{shares_main => maps:get(shares_main, Options, Isolation =:= node)},
    Generation = State#state.generation + 1,
    Start = [self(), Context, py_callback:names(), Generation bsl 40],
    {Server, Monitor} = spawn_opt(Node, py_node_server, init, Start, [monitor]),
    Timer = erlang:start_timer(?OPEN_MS, self(), open),
    receive
        {opened, Server, Origin} ->
            _ = erlang:cancel_timer(Timer),
            {ok, State#state{server = Server, monitor = Monitor, origin = Origin, generation = Generation}};
        {'DOWN', Monitor, process, _, {shutdown, Reason}} ->
            {error, Reason};
        {'DOWN', Monitor, process, _, Reason} ->
            {error, {Node, Reason}};
        {'EXIT', Owner, Reason} ->
            {error, Reason};
        {timeout, Timer, open} ->
            exit(Server, kill),
            {error, {Node, timeout}}
    end.

%% The server is gone, and mostly its node.
-spec ended(term(), #state{}) -> #state{}.
ended(Reason, State) ->
    Stopped = stopped(State#state{server = undefined}),
    Why = why(Reason, Stopped),
    Now = erlang:monotonic_time(millisecond),
    Ends = [Now | [Time || Time <- State#state.ends, Time > Now - ?RESTARTS_MS]],
    Restart = maps:get(restart, State#state.options, temporary) =:= permanent andalso length(Ends) =< ?RESTARTS,
    Reopened =
        case Restart andalso open(Stopped#state{peer = undefined, ends = Ends}) of
            {ok, New} ->
                logger:warning("node of Python context ~p ended (~tp), started again", [State#state.owner, Why]),
                New;
            false ->
                Why;
            {error, Again} ->
                {Why, Again}
        end,
    case Reopened of
        #state{} ->
            Reopened;
        Down ->
            State#state.owner ! {py_node, self(), {down, Down}},
            closed(Stopped#state{peer = undefined})
    end.

%% With a node of our own: what became of its OS process.
-spec why(term(), #state{}) -> term().
why(Reason, #state{peer = undefined}) ->
    Reason;
why(Reason, #state{peer = Peer}) when Reason =/= noconnection ->
    ok = py_peer:stop(Peer),
    Reason;
why(_Reason, #state{peer = Peer}) ->
    Monitor = monitor(process, Peer),
    receive
        {'DOWN', Monitor, process, Peer, {shutdown, Why}} -> Why;
        {'DOWN', Monitor, process, Peer, Why} -> Why
    after ?EXIT_MS ->
        true = demonitor(Monitor, [flush]),
        ok = py_peer:stop(Peer),
        noconnection
    end.

%% Answers all.
-spec stopped(#state{}) -> #state{}.
stopped(#state{open = Open} = State) ->
    maps:fold(fun(Ref, #open{kind = Kind}, Acc) -> last(Ref, stop_message(Kind, Ref), Acc) end, State, Open).

-spec stop_message(kind(), reference()) -> tuple().
stop_message(stream, Ref) -> {py_stream, Ref, {error, stopped}};
stop_message(_, Ref) -> {Ref, {error, stopped}}.

-spec close(#state{}) -> #state{}.
close(#state{server = undefined} = State) ->
    State;
close(#state{server = Server, monitor = Monitor, peer = undefined} = State) ->
    Server ! stop,
    receive
        {'DOWN', Monitor, process, _, _} -> ok
    after ?EXIT_MS -> true = demonitor(Monitor, [flush])
    end,
    closed(stopped(State#state{server = undefined}));
close(#state{monitor = Monitor, peer = Peer} = State) ->
    true = demonitor(Monitor, [flush]),
    ok = py_peer:stop(Peer),
    closed(stopped(State#state{server = undefined, peer = undefined})).

-spec closed(#state{}) -> #state{}.
closed(State) ->
    _ = erlang:send_after(?LINGER_MS, self(), expire),
    true = ets:delete(py_node, {relay, self()}),
    true = ets:delete(py_node, {handle, self()}),
    State.
