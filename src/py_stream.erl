%% Streams: what a Python iterator yields, as a list or as messages with credit. The public face is `py`; see
%% docs/streams.md.
-module(py_stream).

-export([collect/7]).
-export([start/6]).
-export([ack/2]).
-export([cancel/1]).

-export_type([options/0]).

-define(LOOK_MS, 20).
-define(BYTES, 4).
-define(COLLECT, 64).

%% credit: items that may be sent before the first ack, default infinity.
-type options() :: #{credit => non_neg_integer() | infinity, binaries => auto | bytes}.

-spec collect(py_request:handle(), call | eval, term(), term(), term(), map() | [], py:options() | timeout()) ->
    {ok, [term()]} | {error, py:error()}.
collect(Handle, Op, Target, Function, Args, Kwargs, Options) ->
    Flags = py_request:flags(Options) bor ?COLLECT,
    py_request:run(Handle, Op, Target, Function, Args, Kwargs, py_request:timeout(Options), Flags).

-spec start(py_request:handle(), term(), term(), [term()], map() | [], options()) ->
    {ok, reference()} | {error, noproc | system_limit}.
start(undefined, _Module, _Function, _Args, _Kwargs, _Options) ->
    {error, noproc};
start(Handle, Module, Function, Args, Kwargs, Options) ->
    {Credit, Flags} = parse(Options),
    Started =
        case is_reference(Handle) of
            true -> py_nif:stream_start(Handle, 0, Module, Function, Args, Kwargs, Credit, Flags, []);
            false -> py_node:stream_start(Handle, Module, Function, Args, Kwargs, Credit, Flags)
        end,
    case Started of
        {ok, Ref} ->
            ok = py_telemetry:started(stream, #{operation => stream, module => Module, function => Function}),
            {ok, Ref};
        Reason -> {error, Reason}
    end.

%% More credit; done when the stream has ended.
-spec ack(reference(), pos_integer() | infinity) -> ok | {error, done}.
ack(Ref, infinity) -> answer(credit(Ref, -1));
ack(Ref, N) when is_integer(N), N > 0 -> answer(credit(Ref, N)).

%% Called by its owner: ends the stream, and takes its messages out of the mailbox. By anyone else: the owner will get
%% {py_stream, Ref, {error, cancelled}}.
-spec cancel(reference()) -> ok.
cancel(Ref) ->
    Cancelled =
        case py_nif:stream_cancel(Ref) of
            undefined -> py_node:stream_cancel(Ref);
            Here -> Here
        end,
    case Cancelled of
        owner -> drop(Ref, ?LOOK_MS);
        done -> drop(Ref, 0);
        other -> ok
    end.

%% Takes messages until the last one, which comes unless it was received before: then the stream is done.
-spec drop(reference(), timeout()) -> ok.
drop(Ref, Timeout) ->
    receive
        {py_stream, Ref, {data, _}} -> drop(Ref, Timeout);
        {py_stream, Ref, _} -> ok
    after Timeout ->
        case credit(Ref, 0) of
            ok -> drop(Ref, Timeout);
            done when Timeout =:= 0 -> ok;
            done -> drop(Ref, 0)
        end
    end.

%% Not of this node's: a context's on another.
-spec credit(reference(), integer()) -> ok | done.
credit(Ref, N) ->
    case py_nif:stream_ack(Ref, N) of
        undefined -> py_node:stream_ack(Ref, N);
        Here -> Here
    end.

-spec answer(ok | done) -> ok | {error, done}.
answer(ok) -> ok;
answer(done) -> {error, done}.

-spec parse(options()) -> {integer(), non_neg_integer()}.
parse(Options) ->
    maps:foreach(
        fun
            (credit, infinity) -> ok;
            (credit, N) when is_integer(N), N >= 0 -> ok;
            (binaries, How) when How =:= auto; How =:= bytes -> ok;
            (Key, Value) -> error({bad_option, {Key, Value}})
        end,
        Options
    ),
    Credit =
        case maps:get(credit, Options, infinity) of
            infinity -> -1;
            N -> N
        end,
    case Options of
        #{binaries := bytes} -> {Credit, ?BYTES};
        _ -> {Credit, 0}
    end.
