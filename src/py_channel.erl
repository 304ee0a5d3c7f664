%% Channels: bounded streams of terms between Erlang and Python, one queue each way. A sender who finds its queue full is
%% suspended until the receiver has taken half of it. See docs/channels.md.
%%
%% A channel belongs to the process that made it: when that process ends, both directions are closed. Any process that has
%% the channel may send and receive.
-module(py_channel).

-export([new/0]).
-export([new/1]).
-export([send/2]).
-export([send/3]).
-export([recv/1]).
-export([recv/2]).
-export([recv_many/2]).
-export([recv_many/3]).
-export([close/1]).
-export([info/1]).

-export_type([channel/0]).
-export_type([options/0]).

-opaque channel() :: {py_channel, reference()}.
%% capacity: terms in a queue, default 1024. max_bytes: bytes of binaries in a queue, default 16 MiB; a single term may be
%% larger. Both hold for each direction.
-type options() :: #{capacity => pos_integer(), max_bytes => pos_integer()}.

-define(CAPACITY, 1024).
-define(MAX_BYTES, 16777216).

-spec new() -> channel().
new() ->
    new(#{}).

-spec new(options()) -> channel().
new(Options) ->
    Capacity = maps:get(capacity, Options, ?CAPACITY),
    MaxBytes = maps:get(max_bytes, Options, ?MAX_BYTES),
    {py_channel, py_nif:channel_new(Capacity, MaxBytes)}.

%% Sends to Python; waits while the queue is full.
-spec send(channel(), term()) -> ok | {error, closed}.
send({py_channel, Handle}, Term) ->
    case send_wait(Handle, Term, infinity) of
        ok -> ok;
        {error, closed} -> {error, closed}
    end.

%% With a timeout in ms.
-spec send(channel(), term(), timeout()) -> ok | {error, closed | timeout}.
send({py_channel, Handle}, Term, Timeout) ->
    send_wait(Handle, Term, until(Timeout)).

-spec send_wait(reference(), term(), integer() | infinity) -> ok | {error, closed | timeout}.
send_wait(Handle, Term, Until) ->
    Ref = make_ref(),
    case py_nif:channel_send(Handle, Term, Ref) of
        ok -> ok;
        closed -> {error, closed};
        again -> send_wait(Handle, Term, Until);
        wait ->
            case wait(Handle, Ref, Until) of
                again -> send_wait(Handle, Term, Until);
                timeout -> {error, timeout}
            end
    end.

%% The next term from Python.
-spec recv(channel()) -> {ok, term()} | closed.
recv(Channel) ->
    case recv(Channel, infinity) of
        {ok, Term} -> {ok, Term};
        closed -> closed
    end.

-spec recv(channel(), timeout()) -> {ok, term()} | closed | {error, timeout}.
recv(Channel, Timeout) ->
    case recv_many(Channel, 1, Timeout) of
        {ok, [Term]} -> {ok, Term};
        Other -> Other
    end.

%% Up to Max terms, at least one.
-spec recv_many(channel(), pos_integer()) -> {ok, [term(), ...]} | closed.
recv_many(Channel, Max) ->
    case recv_many(Channel, Max, infinity) of
        {ok, Terms} -> {ok, Terms};
        closed -> closed
    end.

-spec recv_many(channel(), pos_integer(), timeout()) -> {ok, [term(), ...]} | closed | {error, timeout}.
recv_many({py_channel, Handle}, Max, Timeout) ->
    recv_wait(Handle, Max, until(Timeout)).

-spec recv_wait(reference(), pos_integer(), integer() | infinity) -> {ok, [term(), ...]} | closed | {error, timeout}.
recv_wait(Handle, Max, Until) ->
    Ref = make_ref(),
    case py_nif:channel_recv(Handle, Max, Ref) of
        Terms when is_list(Terms) -> {ok, Terms};
        closed -> closed;
        again -> recv_wait(Handle, Max, Until);
        wait ->
            case wait(Handle, Ref, Until) of
                again -> recv_wait(Handle, Max, Until);
                timeout -> {error, timeout}
            end
    end.

%% Nothing more goes to Python, which still gets what is there.
-spec close(channel()) -> ok.
close({py_channel, Handle}) ->
    py_nif:channel_close(Handle).

%% Bounds, and what is in the queues.
-spec info(channel()) -> #{atom() => term()}.
info({py_channel, Handle}) ->
    {Capacity, MaxBytes, {ToPython, ToPythonBytes, ToPythonClosed}, {ToErlang, ToErlangBytes, ToErlangClosed}} =
        py_nif:channel_info(Handle),
    #{
        capacity => Capacity,
        max_bytes => MaxBytes,
        to_python => #{length => ToPython, bytes => ToPythonBytes, closed => ToPythonClosed},
        to_erlang => #{length => ToErlang, bytes => ToErlangBytes, closed => ToErlangClosed}
    }.

-spec until(timeout()) -> integer() | infinity.
until(infinity) -> infinity;
until(Timeout) -> erlang:monotonic_time(millisecond) + Timeout.

-spec wait(reference(), reference(), integer() | infinity) -> again | timeout.
wait(Handle, Ref, Until) ->
    Left =
        case Until of
            infinity -> infinity;
            _ -> max(0, Until - erlang:monotonic_time(millisecond))
        end,
    receive
        {Ref, py_channel} -> again
    after Left ->
        ok = py_nif:channel_forget(Handle, Ref),
        receive
            {Ref, py_channel} -> again
        after 0 -> timeout
        end
    end.
