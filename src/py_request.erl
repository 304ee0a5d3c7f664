%% Submitting requests and waiting for them: what the public modules share. A call submits and waits for the one reply that
%% the C side guarantees: it keeps the deadline, so nothing here has a timeout of its own.
-module(py_request).

-export([run/7]).
-export([run/8]).
-export([start/5]).
-export([submit/9]).
-export([submit_as/10]).
-export([cancel/2]).
-export([await/2]).
-export([default/0]).
-export([default/1]).
-export([handle/1]).
-export([timeout/1]).
-export([flags/1]).
-export([name/1]).

-export_type([handle/0]).

%% A context of this node, one of another, none.
-type handle() :: py_nif:context() | py_node:handle() | undefined.
-type refusal() :: overloaded | noproc | stopped | cancelled | system_limit | {deadlock, non_neg_integer()}.

-define(TIMEOUT_MS, 30000).
-define(LOOK_MS, 50). %% how long an await waits before it asks whether there is anything to wait for
-define(SENT_MS, 5000). %% how long a thread may take between the end of a request and its message
-define(MAX_TIMEOUT_MS, 16#ffffffffff). %% 34 years: nanoseconds of it fit 64 bits
-define(TRACKED, 2).
-define(BYTES, 4).
-define(TIMED, 128).

-compile({inline, [op/1]}).

-spec run(handle(), call | eval | exec, term(), term(), term(), map() | [], timeout() | py:options()) ->
    ok | py:result().
run(Handle, Op, Target, Function, Args, Kwargs, Options) ->
    run(Handle, Op, Target, Function, Args, Kwargs, timeout(Options), flags(Options)).

-spec run(handle(), call | eval | exec, term(), term(), term(), map() | [], timeout(), integer()) ->
    ok | py:result().
run(Handle, Op, Target, Function, Args, Kwargs, Timeout, Flags) ->
    case py_telemetry:hook() of
        undefined ->
            Ref = make_ref(),
            case submit(Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags) of
                ok ->
                    receive
                        {Ref, Reply} -> Reply
                    end;
                Error ->
                    Error
            end;
        Hook ->
            Meta = #{operation => Op, module => shown(Op, Target), function => Function},
            py_telemetry:request(Hook, call, Meta, fun() ->
                run_timed(Handle, Op, Target, Function, Args, Kwargs, Timeout, Flags bor ?TIMED)
            end)
    end.

-spec shown(call | eval | exec, term()) -> term().
shown(call, Target) -> Target;
shown(_, _) -> '__main__'.

-spec run_timed(handle(), call | eval | exec, term(), term(), term(), map() | [], timeout(), integer()) ->
    {ok | py:result(), {integer(), integer(), integer()} | none}.
run_timed(Handle, Op, Target, Function, Args, Kwargs, Timeout, Flags) ->
    Ref = make_ref(),
    case submit(Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags) of
        ok ->
            receive
                {Ref, Reply, Times} -> {Reply, Times};
                {Ref, Reply} -> {Reply, none}
            end;
        Error ->
            {Error, none}
    end.

-spec start(handle(), term(), term(), [term()], map() | []) -> reference().
start(Handle, Module, Function, Args, Kwargs) ->
    Ref = make_ref(),
    case submit(Handle, Ref, call, Module, Function, Args, Kwargs, infinity, ?TRACKED) of
        ok -> ok;
        Error -> self() ! {Ref, Error}, ok
    end,
    Ref.

%% See py_nif:submit/9; within a function that Python called it carries on the chain.
-spec submit(handle(), reference(), call | eval | exec, term(), term(), term(), map() | [], timeout(), integer()) ->
    ok | {error, refusal()}.
submit(Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags) when is_reference(Handle) ->
    Ms = milliseconds(Timeout),
    case get('$py_chain') of
        undefined -> submitted(py_nif:submit(Handle, Ref, op(Op), Target, Function, Args, Kwargs, Ms, Flags));
        Chain -> submit_as(Chain, Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags)
    end;
submit(undefined, _Ref, _Op, _Target, _Function, _Args, _Kwargs, _Timeout, _Flags) ->
    {error, noproc};
submit(Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags) ->
    _ = milliseconds(Timeout),
    py_node:submit(Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags).

%% As a part of that chain, in a context of this node.
-spec submit_as(py_callback:chain(), py_nif:context(), reference(), call | eval | exec, term(), term(), term(), map() | [],
    timeout(), integer()) -> ok | {error, refusal()}.
submit_as(Chain, Handle, Ref, Op, Target, Function, Args, Kwargs, Timeout, Flags) ->
    Ms = milliseconds(Timeout),
    submitted(py_nif:submit_nested(Handle, Ref, op(Op), Target, Function, Args, Kwargs, Ms, Flags, Chain)).

-spec submitted(ok | refusal()) -> ok | {error, refusal()}.
submitted(ok) -> ok;
submitted(Reason) -> {error, Reason}.

-spec op(call | eval | exec) -> 0..2.
op(call) -> 0;
op(eval) -> 1;
op(exec) -> 2.

-spec await(reference(), timeout()) -> py:result().
await(Ref, Timeout) when Timeout =< ?LOOK_MS ->
    receive
        {Ref, Reply} -> Reply
    after Timeout -> give_up(Ref)
    end;
await(Ref, Timeout) ->
    receive
        {Ref, Reply} -> Reply
    after ?LOOK_MS ->
        case look(Ref) of
            open -> await_open(Ref, left(Timeout));
            _ -> await_sent(Ref, ?SENT_MS)
        end
    end.

-spec left(timeout()) -> timeout().
left(infinity) -> infinity;
left(Timeout) -> Timeout - ?LOOK_MS.

-spec await_open(reference(), timeout()) -> py:result().
await_open(Ref, Timeout) ->
    receive
        {Ref, Reply} -> Reply
    after Timeout -> give_up(Ref)
    end.

-spec give_up(reference()) -> py:result().
give_up(Ref) ->
    case cancel(Ref, true) of
        cancelled -> {error, timeout};
        done -> await_sent(Ref, ?SENT_MS)
    end.

%% The reply was sent, is on its way, or was taken by an await before: then there is nothing to wait for.
-spec await_sent(reference(), non_neg_integer()) -> py:result().
await_sent(Ref, Ms) ->
    Look = look(Ref),
    receive
        {Ref, Reply} -> Reply
    after 0 ->
        case Look of
            sending when Ms > 0 ->
                receive
                    {Ref, Reply} -> Reply
                after 1 -> await_sent(Ref, Ms - 1)
                end;
            _ ->
                {error, noproc}
        end
    end.

%% See py_nif:cancel/2.
-spec cancel(reference(), Silent :: boolean()) -> cancelled | done.
cancel(Ref, Silent) ->
    case py_nif:cancel(Ref, Silent) of
        cancelled -> cancelled;
        done -> py_node:cancel(Ref, Silent)
    end.

%% See py_nif:look/1.
-spec look(reference()) -> open | sending | done.
look(Ref) ->
    case py_nif:look(Ref) of
        done -> py_node:look(Ref);
        Fate -> Fate
    end.

-spec default() -> handle().
default() ->
    case py_context:default() of
        {_, Handle} -> Handle;
        undefined -> undefined
    end.

%% The context for a target without one: where it lives, for a ref.
-spec default(term()) -> handle().
default({py_ref, _, _} = Ref) ->
    try py_nif:ref_context(Ref) of
        {ok, Handle} -> Handle;
        main -> default();
        noproc -> undefined
    catch
        error:badarg ->
            case py_node:of_ref(Ref) of
                {ok, Elsewhere} -> Elsewhere;
                none -> default()
            end
    end;
default(_) ->
    default().

-spec handle(pid()) -> handle().
handle(Context) ->
    case py_context:lookup(Context) of
        {ok, Handle} -> Handle;
        error -> undefined
    end.

-spec milliseconds(timeout()) -> integer().
milliseconds(infinity) -> -1;
milliseconds(Timeout) when is_integer(Timeout), Timeout >= 0 -> min(Timeout, ?MAX_TIMEOUT_MS);
milliseconds(Timeout) -> error({bad_timeout, Timeout}).

-spec timeout(timeout() | py:options()) -> timeout().
timeout(#{timeout := Timeout}) -> Timeout;
timeout(#{}) -> ?TIMEOUT_MS;
timeout(Timeout) -> Timeout.

-spec flags(timeout() | py:options()) -> integer().
flags(Options) when is_map(Options) ->
    case maps:keys(maps:without([timeout, binaries], Options)) of
        [] -> ok;
        [Unknown | _] -> error({bad_option, Unknown})
    end,
    case Options of
        #{binaries := bytes} -> ?BYTES;
        #{binaries := auto} -> 0;
        #{binaries := Other} -> error({bad_option, {binaries, Other}});
        _ -> 0
    end;
flags(_) ->
    0.

-spec name(atom() | iodata()) -> binary().
name(Name) when is_atom(Name) -> atom_to_binary(Name);
name(Name) -> iolist_to_binary(Name).
