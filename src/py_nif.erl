%% The NIF library: stubs and specs. Nothing here waits; see c_src/py_nif.c.
-module(py_nif).

-export([runtime_start/2]).
-export([runtime_flush/2]).
-export([program_run/0]).
-export([interpreter_start/2]).
-export([interpreter_ask/3]).
-export([ref_context/1]).
-export([far_new/2]).
-export([far_id/1]).
-export([ref_counts/0]).
-export([context_new/6]).
-export([context_close/1]).
-export([context_interrupt/1]).
-export([context_info/1]).
-export([submit/9]).
-export([submit_nested/10]).
-export([events_attach/1]).
-export([events_post/2]).
-export([beam_arm/1]).
-export([stream_start/9]).
-export([stream_ack/2]).
-export([stream_cancel/1]).
-export([loop_start/1]).
-export([loop_stop/3]).
-export([cancel/2]).
-export([look/1]).
-export([callback_server/2]).
-export([callback_begin/2]).
-export([callback_reply/2]).
-export([callback_down/2]).
-export([callback_names/1]).
-export([channel_new/2]).
-export([channel_send/3]).
-export([channel_recv/3]).
-export([channel_forget/2]).
-export([channel_close/1]).
-export([channel_info/1]).
-export([timing/1]).
-export([counters/0]).
-export([atom_quota/1]).
-export([grace/1]).
-export([python_version/0]).
-export([build_python/0]).

-on_load(load/0).

-export_type([context/0]).
-export_type([event_port/0]).
-export_type([interpreter/0]).

-type context() :: reference().
-opaque event_port() :: reference().
-opaque interpreter() :: reference().

-spec load() -> ok | {error, term()}.
load() ->
    erlang:load_nif(filename:join(py_env:priv_dir(), "py_nif"), 0).

%% The caller gets {Ref, ok | {error, Text}}.
-spec runtime_start(reference(), #{atom() => term()}) -> ok | system_limit.
runtime_start(_Ref, _Config) -> erlang:nif_error(not_loaded).

%% The caller gets {Ref, ok}.
-spec runtime_flush(reference(), Last :: boolean()) -> ok | not_started | system_limit.
runtime_flush(_Ref, _Last) -> erlang:nif_error(not_loaded).

%% Python's main thread runs the program of priv/erlpy; its end is the end of this OS process.
-spec program_run() -> ok | not_started.
program_run() -> erlang:nif_error(not_loaded).

%% The caller gets {Ref, {ok, Interpreter} | {error, Text}}. Label says in messages whose it is.
-spec interpreter_start(reference(), Label :: binary()) -> ok | {error, not_started | system_limit | binary()}.
interpreter_start(_Ref, _Label) -> erlang:nif_error(not_loaded).

%% The caller gets {Ref, {ok, T} | {error, E}}: what a function of erlang._admin without arguments says of the context's
%% interpreter, also while all of its workers are busy.
-spec interpreter_ask(context(), reference(), atom()) -> ok | noproc.
interpreter_ask(_Context, _Ref, _Function) -> erlang:nif_error(not_loaded).

%% Where a ref's object lives: main, a context of an interpreter of its own, or none any more.
-spec ref_context(py:ref()) -> {ok, context()} | main | noproc.
ref_context(_PyRef) -> erlang:nif_error(not_loaded).

%% A hold on the object with that number of the relay's node; see py_far.
-spec far_new(pid(), py_far:id()) -> reference().
far_new(_Relay, _Id) -> erlang:nif_error(not_loaded).

-spec far_id(reference()) -> {Relay :: pid(), py_far:id()} | none.
far_id(_Far) -> erlang:nif_error(not_loaded).

%% That live on this node.
-spec ref_counts() -> {Refs :: non_neg_integer(), Fars :: non_neg_integer()}.
ref_counts() -> erlang:nif_error(not_loaded).

-spec context_new(boolean(), pos_integer(), non_neg_integer(), non_neg_integer(), non_neg_integer(), interpreter() | main) ->
    {ok, context()} | {error, not_started | system_limit}.
context_new(_SharesMain, _MaxThreads, _SpinNs, _MaxQueue, _Flags, _Interpreter) -> erlang:nif_error(not_loaded).

-spec context_close(context()) -> ok.
context_close(_Context) -> erlang:nif_error(not_loaded).

-spec context_interrupt(context()) -> ok.
context_interrupt(_Context) -> erlang:nif_error(not_loaded).

-spec context_info(context()) -> #{atom() => term()}.
context_info(_Context) -> erlang:nif_error(not_loaded).

%% After ok the caller gets {Ref, Reply} exactly once; the C side keeps the deadline (TimeoutMs, -1 for none).
-spec submit(context(), reference(), Op, Target, Function, Args, Kwargs, TimeoutMs, Flags) ->
    ok | overloaded | noproc | stopped | system_limit
when
    Op :: 0..2,
    Target :: term(),
    Function :: term(),
    Args :: term(),
    Kwargs :: map() | [],
    TimeoutMs :: integer(),
    Flags :: non_neg_integer().
submit(_Context, _Ref, _Op, _Target, _Function, _Args, _Kwargs, _TimeoutMs, _Flags) -> erlang:nif_error(not_loaded).

%% As submit/9, from a function that Python called: Chain is what its process carries.
-spec submit_nested(context(), reference(), Op, term(), term(), term(), map() | [], integer(), non_neg_integer(), Chain) ->
    ok | overloaded | noproc | stopped | system_limit | cancelled | {deadlock, non_neg_integer()}
when
    Op :: 0..2,
    Chain :: py_callback:chain().
submit_nested(_Context, _Ref, _Op, _Target, _Function, _Args, _Kwargs, _TimeoutMs, _Flags, _Chain) ->
    erlang:nif_error(not_loaded).

%% The caller serves what Python asks, as number Index of Count.
-spec callback_server(non_neg_integer(), pos_integer()) -> ok | system_limit | noproc.
callback_server(_Index, _Count) -> erlang:nif_error(not_loaded).

%% Pid runs the function; false when nobody waits for it any more.
-spec callback_begin(non_neg_integer(), pid()) -> boolean().
callback_begin(_Id, _Pid) -> erlang:nif_error(not_loaded).

%% false when nobody waits for it any more.
-spec callback_reply(non_neg_integer(), py_callback:answer()) -> boolean().
callback_reply(_Id, _Answer) -> erlang:nif_error(not_loaded).

%% Pid is dead: its call, if it has not been answered, is answered with this.
-spec callback_down(pid(), py_callback:answer()) -> boolean().
callback_down(_Pid, _Answer) -> erlang:nif_error(not_loaded).

%% The names that Python can look up, as the keys of a map.
-spec callback_names(#{binary() => term()}) -> ok.
callback_names(_Names) -> erlang:nif_error(not_loaded).
%% The caller is the event process of the loop that made the port.
-spec events_attach(event_port()) -> ok | closed.
events_attach(_Port) -> erlang:nif_error(not_loaded).

%% Any process; closed when the loop is.
-spec events_post(event_port(), [{Type :: 0..255, Id :: non_neg_integer(), Data :: term()}]) -> ok | closed.
events_post(_Port, _Events) -> erlang:nif_error(not_loaded).

%% The caller gets {py_fd, Type, Id} for each watch that becomes ready as its mask says.
-spec beam_arm([{reference(), 1..3}]) -> ok.
beam_arm(_Watches) -> erlang:nif_error(not_loaded).

%% After {ok, Ref} the caller gets {py_stream, Ref, {data, T}}, and at last once done or {error, E} in the place of
%% {data, T}. Credit -1: no bound.
-spec stream_start(context(), 0..1, term(), term(), term(), map() | [], integer(), non_neg_integer(), [pid()]) ->
    {ok, reference()} | noproc | system_limit.
stream_start(_Context, _Op, _Target, _Function, _Args, _Kwargs, _Credit, _Flags, _Callers) -> erlang:nif_error(not_loaded).

%% undefined: it is no stream of this node.
-spec stream_ack(reference(), integer()) -> ok | done | undefined.
stream_ack(_Ref, _Credit) -> erlang:nif_error(not_loaded).

%% owner: the caller is, and the last message comes if it did not before; done: it did.
-spec stream_cancel(reference()) -> owner | done | other | undefined.
stream_cancel(_Ref) -> erlang:nif_error(not_loaded).

%% Starts the context's loop, as its first request would.
-spec loop_start(context()) -> ok | noproc | stopped | system_limit.
loop_start(_Context) -> erlang:nif_error(not_loaded).

%% After ok the caller gets {Ref, ok} when the loop has ended; what runs may take DrainMs until then.
-spec loop_stop(context(), reference(), DrainMs :: non_neg_integer()) -> ok | not_started.
loop_stop(_Context, _Ref, _DrainMs) -> erlang:nif_error(not_loaded).

%% Channels; see py_channel. wait: {Ref, py_channel} will come when it is time to try again; again: it is time now.
-spec channel_new(pos_integer(), pos_integer()) -> reference().
channel_new(_Capacity, _MaxBytes) -> erlang:nif_error(not_loaded).

-spec channel_send(reference(), term(), reference()) -> ok | wait | again | closed.
channel_send(_Channel, _Term, _Ref) -> erlang:nif_error(not_loaded).

-spec channel_recv(reference(), pos_integer(), reference()) -> [term()] | wait | again | closed.
channel_recv(_Channel, _Max, _Ref) -> erlang:nif_error(not_loaded).

%% No message for Ref will be sent; one may be on its way.
-spec channel_forget(reference(), reference()) -> ok.
channel_forget(_Channel, _Ref) -> erlang:nif_error(not_loaded).

-spec channel_close(reference()) -> ok.
channel_close(_Channel) -> erlang:nif_error(not_loaded).

-spec channel_info(reference()) ->
    {Capacity :: pos_integer(), MaxBytes :: pos_integer(), ToPython :: Queue, ToErlang :: Queue}
when
    Queue :: {Length :: non_neg_integer(), Bytes :: non_neg_integer(), Closed :: boolean()}.
channel_info(_Channel) -> erlang:nif_error(not_loaded).

%% cancelled: it was asked to stop; done: its reply has been sent, or there is no such request. With Silent no reply
%% comes after `cancelled`.
-spec cancel(reference(), Silent :: boolean()) -> cancelled | done.
cancel(_Ref, _Silent) -> erlang:nif_error(not_loaded).

%% open: it has not ended; sending: its reply may be on its way; done: its reply is in the mailbox, or was, or there is no
%% such request.
-spec look(reference()) -> open | sending | done.
look(_Ref) -> erlang:nif_error(not_loaded).

%% Whether workers measure what a request flagged for it waits for.
-spec timing(boolean()) -> ok.
timing(_On) -> erlang:nif_error(not_loaded).

%% What lives now, and the atoms made from Python since the VM started.
-spec counters() -> #{
    requests := integer(),
    refs := integer(),
    far_refs := integer(),
    pins := integer(),
    channels := integer(),
    callbacks := integer(),
    contexts := integer(),
    interpreters := integer(),
    interpreters_left := integer(),
    interpreters_ending := integer(),
    atoms := integer()
}.
counters() -> erlang:nif_error(not_loaded).

-spec atom_quota(non_neg_integer()) -> ok.
atom_quota(_Quota) -> erlang:nif_error(not_loaded).

%% How long what was asked to stop may take before it is abandoned.
-spec grace(non_neg_integer()) -> ok.
grace(_Ms) -> erlang:nif_error(not_loaded).

-spec python_version() -> binary().
python_version() -> erlang:nif_error(not_loaded).

-spec build_python() -> binary().
build_python() -> erlang:nif_error(not_loaded).
