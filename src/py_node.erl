%% A context on another node, seen by its callers: what py_nif does for a context of this node. The handle names a relay
%% (py_node_relay), a process of this node that has the only say about each request's one reply; it speaks with a server
%% (py_node_server), a process beside the context. See docs/nodes.md and docs/design.md.
%%
%% The table: {Ref, Relay, Caller} of a request that can be cancelled or a stream, as long as it is open; {{relay, Pid}}
%% of each relay, and {{handle, Pid}, Handle}; {{server, Pid}, Relay, FirstId} of each server; {{slot, N}, Pid} of the
%% names of nodes; and what py_far has there.
-module(py_node).

-export([init_table/0]).
-export([open/2]).
-export([close/1]).
-export([isolation/1]).
-export([of_ref/1]).
-export([submit/9]).
-export([cancel/2]).
-export([look/1]).
-export([stream_start/7]).
-export([stream_ack/2]).
-export([stream_cancel/1]).
-export([control/2]).
-export([info/1]).
-export([ask_info/1]).
-export([names/1]).
-export([home/1]).
-export([call_home/4]).
-export([here/2]).
-export([there/2]).

-export_type([handle/0]).
-export_type([isolation/0]).
-export_type([payload/0]).
-export_type([chain/0]).

-define(NO_REPLY, 1).
-define(TRACKED, 2).
-define(SLACK, 1000).
-define(INFO_MS, 2000).
-define(MAX_CREDIT, 16#ffffffffffff).

-type handle() :: {py_node, Relay :: pid(), Open :: counters:counters_ref(), MaxOpen :: pos_integer(), isolation()}.
-type isolation() :: node | {node, node()}.
%% The chain that the caller is part of, if that came from another node; trace; callers, innermost first.
-type chain() :: {{Origin :: term(), py_callback:chain()} | undefined, Trace :: term(), [pid()]}.
-type control() :: interrupt | info | loop_start | {loop_stop, non_neg_integer()} | {admin, stacks | memory_stats}.
-type payload() ::
    {submit, call | eval | exec, term(), term(), term(), map() | [], timeout(), non_neg_integer(), chain()}
    | {stream, term(), term(), [term()], map() | [], integer(), non_neg_integer(), chain()}
    | {control, control()}.

%% In the process that keeps the table.
-spec init_table() -> ok.
init_table() ->
    ?MODULE = ets:new(?MODULE, [named_table, public, {write_concurrency, true}]),
    ok.

%% Opens a context as the calling process's, which gets {py_node, Relay, {down, Reason}} when its node is gone for good.
-spec open(isolation(), py_context:options()) -> {ok, handle()} | {error, term()}.
open(Isolation, Options) ->
    Open = counters:new(1, []),
    MaxOpen =
        case maps:get(max_queue, Options, 100000) of
            infinity -> 1 bsl 59;
            Max -> Max + maps:get(threads, Options, 1) + ?SLACK
        end,
    case py_node_relay:start(Isolation, Options, Open) of
        {ok, Relay} ->
            Handle = {?MODULE, Relay, Open, MaxOpen, Isolation},
            true = ets:insert(?MODULE, {{handle, Relay}, Handle}),
            {ok, Handle};
        {error, {shutdown, Reason}} -> {error, Reason};
        {error, Reason} -> {error, Reason}
    end.

%% Every open request is answered {error, stopped}, and the node is gone when this returns.
-spec close(handle()) -> ok.
close({?MODULE, Relay, _, _, _}) ->
    try
        gen_server:call(Relay, close, infinity)
    catch
        exit:_ -> ok
    end.

%% Where the object of a ref is; none: not on another node.
-spec of_ref(py:ref()) -> {ok, handle() | undefined} | none.
of_ref({py_ref, _, Far}) ->
    case py_nif:far_id(Far) of
        none ->
            none;
        {Relay, _} ->
            case ets:lookup(?MODULE, {handle, Relay}) of
                [{_, Handle}] -> {ok, Handle};
                [] -> {ok, undefined}
            end
    end.

-spec isolation(handle()) -> isolation().
isolation({?MODULE, _, _, _, Isolation}) ->
    Isolation.

%% As py_nif:submit/9. Whether the queue there is full shows in the reply; only a cast waits for that.
-spec submit(Handle, reference(), call | eval | exec, term(), term(), term(), map() | [], timeout(), Flags) ->
    ok | {error, overloaded | noproc | stopped | system_limit}
when
    Handle :: handle(),
    Flags :: non_neg_integer().
submit(Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags) ->
    Payload = {submit, Op, Target, Function, Args, Kwargs, Timeout, Flags, chain()},
    Kind =
        if
            Flags band ?NO_REPLY =/= 0 -> cast;
            Flags band ?TRACKED =/= 0 -> tracked;
            true -> plain
        end,
    case send(Handle, Kind, Ref, Timeout, Payload) of
        ok when Kind =:= cast -> receive {Ref, Result} -> Result end;
        Sent -> Sent
    end.

%% As py_nif:cancel/2.
-spec cancel(reference(), Silent :: boolean()) -> cancelled | done.
cancel(Ref, Silent) ->
    case ets:lookup(?MODULE, Ref) of
        [{_, Relay, _}] ->
            Tag = make_ref(),
            Relay ! {cancel, Ref, Silent, self(), Tag},
            receive {Tag, Result} -> Result end;
        [] ->
            done
    end.

%% As py_nif:look/1: what is not in the table has been answered.
-spec look(reference()) -> open | done.
look(Ref) ->
    case ets:member(?MODULE, Ref) of
        true -> open;
        false -> done
    end.

%% As py_nif:stream_start/9.
-spec stream_start(handle(), term(), term(), [term()], map() | [], integer(), non_neg_integer()) ->
    {ok, reference()} | overloaded | noproc | stopped | system_limit.
stream_start(Handle, Module, Function, Args, Kwargs, Credit, Flags) ->
    Ref = make_ref(),
    Payload = {stream, Module, Function, Args, Kwargs, min(Credit, ?MAX_CREDIT), Flags, chain()},
    case send(Handle, starting, Ref, infinity, Payload) of
        ok ->
            receive
                {Ref, ok} -> {ok, Ref};
                {Ref, {error, Reason}} -> Reason
            end;
        {error, Reason} ->
            Reason
    end.

%% As py_nif:stream_ack/2.
-spec stream_ack(reference(), integer()) -> ok | done.
stream_ack(Ref, Credit) ->
    case ets:lookup(?MODULE, Ref) of
        [{_, Relay, _}] ->
            Relay ! {to_server, Ref, {ack, Ref, min(Credit, ?MAX_CREDIT)}},
            ok;
        [] ->
            done
    end.

%% As py_nif:stream_cancel/1.
-spec stream_cancel(reference()) -> owner | done | other.
stream_cancel(Ref) ->
    case ets:lookup(?MODULE, Ref) of
        [{_, Relay, Owner}] ->
            Relay ! {to_server, Ref, {stream_cancel, Ref}},
            if
                Owner =:= self() -> owner;
                true -> other
            end;
        [] ->
            done
    end.

%% What the context's own node does with it.
-spec control(handle(), control()) -> term() | {error, noproc | stopped}.
control(Handle, What) ->
    Ref = make_ref(),
    case send(Handle, plain, Ref, infinity, {control, What}) of
        ok -> receive {Ref, Result} -> Result end;
        Error -> Error
    end.

%% Of the context there; an error also when its node says nothing.
-spec info(handle()) -> #{atom() => term()} | {error, noproc | stopped | timeout}.
info(Handle) ->
    {Asker, Monitor} = spawn_monitor(?MODULE, ask_info, [Handle]),
    receive
        {'DOWN', Monitor, process, Asker, {info, Info}} -> Info
    after ?INFO_MS ->
        exit(Asker, kill),
        true = demonitor(Monitor, [flush]),
        {error, timeout}
    end.

%% In a process of its own, where a late answer may come.
-spec ask_info(handle()) -> no_return().
ask_info(Handle) ->
    exit({info, control(Handle, info)}).

%% A relay that has closed stays for a while and answers, so one that lives when it is looked at hears what is sent
%% then.
-spec send(handle(), plain | tracked | cast | starting, reference(), timeout(), payload()) ->
    ok | {error, overloaded | noproc}.
send({?MODULE, Relay, Open, MaxOpen, _}, Kind, Ref, Timeout, Payload) ->
    ok = counters:add(Open, 1, 1),
    case {is_process_alive(Relay), counters:get(Open, 1) > MaxOpen, py_far:unwrap(Payload, Relay)} of
        {true, false, {Sent, Any}} when is_boolean(Any) ->
            Kind =:= plain orelse Kind =:= cast orelse ets:insert(?MODULE, {Ref, Relay, self()}),
            Relay ! {request, Kind, Ref, self(), Timeout, marked(Sent, Any), Any andalso Payload},
            ok;
        {false, _, _} ->
            {error, noproc};
        {true, true, _} ->
            ok = counters:sub(Open, 1, 1),
            {error, overloaded};
        {true, false, {refused, Error}} ->
            ok = counters:sub(Open, 1, 1),
            Error
    end.

-spec marked(payload(), boolean()) -> payload() | {far, payload()}.
marked(Payload, true) -> {far, Payload};
marked(Payload, false) -> Payload.

-spec chain() -> chain().
chain() ->
    case get('$py_chain') of
        undefined -> {undefined, undefined, [self()]};
        {py_chain, _, _, _, Trace, Callers} -> {get('$py_origin'), Trace, [self() | Callers]}
    end.

%% ---- Python there calls functions here ----

%% The names that Python can look up have changed.
-spec names([binary()]) -> ok.
names(Names) ->
    lists:foreach(fun([Relay]) -> Relay ! {names, Names} end, ets:match(?MODULE, {{relay, '$1'}})).

%% The node whose functions a chain of calls is to use, `here` when it began on this one. A thread of a node of our own
%% that runs nothing for anybody belongs to the node that started it.
-spec home(Callers :: [pid()]) -> node() | here.
home([]) ->
    case application:get_env(erlang_python, home) of
        {ok, Home} -> Home;
        undefined -> here
    end;
home(Callers) ->
    case [Node || Pid <- Callers, Node <- [node(Pid)], Node =/= node()] of
        [Home | _] -> Home;
        [] -> here
    end.

%% Runs a function of the other node in a process there that is linked to this one: each dies with the other. Refs in
%% its arguments and its result are those of the relay there that a server here works for.
-spec call_home(node(), py_callback:target(), [term()], py_callback:chain()) -> py_callback:answer().
call_home(Home, Target, Args, Chain) ->
    Ref = make_ref(),
    Origin = {node(), erlang:system_info(creation)},
    {Held, Relay} = hold(Args, Home),
    Pid = spawn_link(Home, py_callback, run_from, [self(), Ref, Target, Held, Chain, Origin, Relay]),
    receive
        {Ref, Answer} ->
            true = unlink(Pid),
            answer(Answer, Relay)
    end.

-spec hold([term()], node()) -> {[term()], pid() | undefined}.
hold(Args, Home) ->
    case [{Relay, First} || [Relay, First] <- ets:match(?MODULE, {{server, '_'}, '$1', '$2'}), node(Relay) =:= Home] of
        [{Relay, First} | _] -> {element(1, py_far:hold(Args, Relay, First)), Relay};
        [] -> {Args, undefined}
    end.

-spec answer(py_callback:answer(), pid() | undefined) -> py_callback:answer().
answer(Answer, undefined) ->
    Answer;
answer(Answer, Relay) ->
    case py_far:found(Answer, Relay) of
        {ok, Found} -> Found;
        {refused, {error, {_, #{message := Message}}}} -> {error, error, Message, [], undefined}
    end.

%% The other ends of hold/2 and answer/2, where the function is.
-spec here([term()], pid() | undefined) -> [term()].
here(Args, undefined) -> Args;
here(Args, Relay) -> py_far:wrap(Args, Relay).

-spec there(py_callback:answer(), pid() | undefined) -> py_callback:answer().
there(Answer, undefined) ->
    Answer;
there(Answer, Relay) ->
    case py_far:unwrap(Answer, Relay) of
        {refused, {error, {_, #{message := Message}}}} -> {error, error, Message, [], undefined};
        {Sent, _} -> Sent
    end.
