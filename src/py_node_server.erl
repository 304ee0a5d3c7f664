%% Beside a context that callers on another node use: it makes their requests its own, and says the relay
%% (py_node_relay) what comes of them. It owns the context, and ends with the relay, or when its node is out of reach.
-module(py_node_server).

-export([init/4]).

-define(NO_REPLY, 1).
-define(TRACKED, 2).
-define(FOREIGN, 256).

-record(state, {
    relay :: pid(),
    monitor :: reference(),
    context :: pid(),
    handle :: py_nif:context(),
    first :: py_far:id(),
    streams = #{} :: #{reference() => reference()}, %% ours => the caller's
    ours = #{} :: #{reference() => reference()}
}).

-spec init(pid(), py_context:options(), [binary()], py_far:id()) -> no_return().
init(Relay, Options, Names, First) ->
    process_flag(trap_exit, true),
    process_flag(message_queue_data, off_heap),
    Monitor = monitor(process, Relay),
    whereis(py_context_sup) =:= undefined andalso exit({shutdown, {not_started, erlang_python, node()}}),
    case py_context:start_link(Options) of
        {ok, Context} ->
            {ok, Handle} = py_context:lookup(Context),
            ok = py_callback:foreign(self(), Names),
            true = ets:insert(py_node, {{server, self()}, Relay, First}),
            Relay ! {opened, self(), {node(), erlang:system_info(creation)}},
            loop(#state{relay = Relay, monitor = Monitor, context = Context, handle = Handle, first = First});
        {error, Reason} ->
            exit({shutdown, Reason})
    end.

-spec loop(#state{}) -> no_return().
loop(#state{monitor = Monitor, context = Context} = State) ->
    receive
        {request, Ref, Payload} ->
            loop(asked(Payload, Ref, State));
        {cancel, Ref, Silent} ->
            _ = py_nif:cancel(Ref, Silent),
            loop(State);
        {py_stream, Ours, Body} ->
            loop(stream(Ours, Body, State));
        {ack, Ref, Credit} ->
            with_stream(Ref, fun(Ours) -> py_nif:stream_ack(Ours, Credit) end, State),
            loop(State);
        {stream_cancel, Ref} ->
            with_stream(Ref, fun py_nif:stream_cancel/1, State),
            loop(State);
        {drop, Id} ->
            ok = py_far:drop(State#state.relay, Id),
            loop(State);
        {names, Names} ->
            ok = py_callback:foreign(self(), Names),
            loop(State);
        stop ->
            stop(State);
        {'DOWN', Monitor, process, _, _} ->
            stop(State);
        {'EXIT', Context, Reason} ->
            ok = forget(State),
            exit({shutdown, {context, Reason}});
        {Ref, _} = Reply ->
            last(Ref, Reply, State),
            loop(State);
        {Ref, _, _} = Reply when is_reference(Ref) ->
            last(Ref, Reply, State),
            loop(State);
        _ ->
            loop(State)
    end.

-spec stop(#state{}) -> no_return().
stop(#state{context = Context} = State) ->
    ok = py_context:stop(Context),
    ok = forget(State),
    exit(normal).

-spec forget(#state{}) -> ok.
forget(#state{relay = Relay}) ->
    true = ets:delete(py_node, {server, self()}),
    ok = py_far:drop_all(Relay),
    py_callback:foreign(self(), []).

-spec last(reference(), tuple(), #state{}) -> ok.
last(Ref, Message, State) ->
    say({last, Ref, Message}, State).

-spec say(tuple(), #state{}) -> ok.
say(Message, #state{relay = Relay, first = First}) ->
    {Held, Any} = py_far:hold(Message, Relay, First),
    _ = Relay ! if Any -> {far, Held}; true -> Held end,
    ok.

%% What the NIF does not take must not end the context.
-spec asked(tuple(), reference(), #state{}) -> #state{}.
asked(Payload, Ref, State) ->
    try
        request(Payload, Ref, State)
    catch
        error:badarg ->
            last(Ref, {Ref, {error, badarg}}, State),
            State
    end.

-spec request(tuple(), reference(), #state{}) -> #state{}.
request({far, Payload}, Ref, #state{relay = Relay} = State) ->
    case py_far:found(Payload, Relay) of
        {ok, Found} -> request(Found, Ref, State);
        {refused, Error} -> last(Ref, {Ref, Error}, State), State
    end;
request({submit, Op, Target, Function, Args, Kwargs, Timeout, Flags0, Chain}, Ref, #state{handle = Handle} = State) ->
    NoReply = Flags0 band ?NO_REPLY =/= 0,
    Flags =
        if
            NoReply -> Flags0 bor ?FOREIGN;
            true -> Flags0 bor ?FOREIGN bor ?TRACKED
        end,
    case py_request:submit_as(Chain, Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags) of
        ok when NoReply -> last(Ref, {Ref, ok}, State);
        ok -> ok;
        Error -> last(Ref, {Ref, Error}, State)
    end,
    State;
request({stream, Module, Function, Args, Kwargs, Credit, Flags, {py_chain, _, _, _, _, Callers}}, Ref, State) ->
    #state{handle = Handle, relay = Relay, streams = Streams, ours = Ours} = State,
    case py_nif:stream_start(Handle, 0, Module, Function, Args, Kwargs, Credit, Flags bor ?FOREIGN, Callers) of
        {ok, Our} ->
            Relay ! {more, Ref, {Ref, ok}},
            State#state{streams = Streams#{Our => Ref}, ours = Ours#{Ref => Our}};
        Reason ->
            last(Ref, {Ref, {error, Reason}}, State),
            State
    end;
request({control, What}, Ref, #state{handle = Handle, context = Context, relay = Relay} = State) ->
    case What of
        {admin, Function} ->
            _ = spawn(fun() -> Relay ! {last, Ref, {Ref, py:Function()}} end),
            ok;
        interrupt ->
            last(Ref, {Ref, py_nif:context_interrupt(Handle)}, State);
        info ->
            last(Ref, {Ref, (py_nif:context_info(Handle))#{node => node(), remote_pid => Context}}, State);
        loop_start ->
            last(Ref, {Ref, py_nif:loop_start(Handle)}, State);
        {loop_stop, DrainMs} ->
            case py_nif:loop_stop(Handle, Ref, DrainMs) of
                ok -> ok;
                not_started -> last(Ref, {Ref, not_started}, State)
            end
    end,
    State.

-spec stream(reference(), term(), #state{}) -> #state{}.
stream(Our, Body, #state{streams = Streams, ours = Ours} = State) ->
    case {Streams, Body} of
        {#{Our := Ref}, {data, _}} ->
            ok = say({more, Ref, {py_stream, Ref, Body}}, State),
            State;
        {#{Our := Ref}, _} ->
            last(Ref, {py_stream, Ref, Body}, State),
            State#state{streams = maps:remove(Our, Streams), ours = maps:remove(Ref, Ours)};
        {#{}, _} ->
            State
    end.

-spec with_stream(reference(), fun((reference()) -> term()), #state{}) -> ok.
with_stream(Ref, Fun, #state{ours = Ours}) ->
    case Ours of
        #{Ref := Our} -> _ = Fun(Our), ok;
        #{} -> ok
    end.
