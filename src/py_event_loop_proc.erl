%% The event process of a loop: it receives what Erlang has to tell the loop, and posts it in batches, one NIF call for
%% all that its mailbox holds. It owns the sockets and ports that the loop's protocols speak over. See docs/events.md.
%%
%% Nothing here waits for a peer: a socket or port is written to by a process of its own, which tells how far it got, so
%% that Python's write buffer has a limit. Reading has one too: a socket is active for ?ACTIVE packets, and Python asks for
%% more when it has taken those.
-module(py_event_loop_proc).
-behaviour(gen_server).

-export([start_link/1]).
-export([of_context/1]).
-export([result/3]).
-export([results/2]).
-export([attach/3]).
-export([attach/4]).

-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-export_type([factory/0]).

-define(WRITE, 2).
-define(TIMER, 3).
-define(ASYNC_RESULT, 12).
-define(ASYNC_ERROR, 13).
-define(SUBPROCESS_EXIT, 20).
-define(SUBPROCESS_STDOUT, 21).
-define(SUBPROCESS_STDERR, 22).
-define(SOCKET_DATA, 30).
-define(SOCKET_CLOSED, 31).
-define(SOCKET_ERROR, 32).
-define(CONTROL, 0).

-define(ACTIVE, 16).
-define(BATCH, 1000).
-define(PIECE, 65536).
-define(TIMEOUT_MS, 30000).

%% Called on the loop: Module.Function(*Args) gives the asyncio protocol.
-type factory() :: {py:name() | py:ref(), py:name(), [term()]}.
%% A program is one that Python started, behind the helper of c_src/erlpy/port.h.
-type kind() :: tcp | udp | port | program.

-record(channel, {
    id :: non_neg_integer(),
    kind :: kind(),
    handle :: gen_tcp:socket() | gen_udp:socket() | port(),
    writer :: pid()
}).
-record(state, {
    port :: py_nif:event_port(),
    by_handle = #{} :: #{term() => #channel{}},
    by_id = #{} :: #{non_neg_integer() => #channel{}},
    timer :: reference() | undefined,
    waiting = #{} :: #{non_neg_integer() => gen_server:from()}
}).

%% ---- for Erlang ----

%% The event process of the context's loop; both are started where they do not run.
-spec of_context(pid()) -> {ok, pid()} | {error, py:error()}.
of_context(Context) ->
    py:async_await(py:async_call(Context, 'erlang._events', event_process, [])).

%% Resolves the future that Python registered under the number, or will register: {ok, T} is its result, {error, E} becomes
%% an erlang.ErlangError.
-spec result(pid(), non_neg_integer(), {ok, term()} | {error, term()}) -> ok.
result(Loop, Id, Result) ->
    results(Loop, [{Id, Result}]).

-spec results(pid(), [{non_neg_integer(), {ok, term()} | {error, term()}}]) -> ok.
results(Loop, Results) ->
    Loop ! {py_results, Results},
    ok.

%% Gives a connected gen_tcp socket, a gen_udp socket or a port that the caller owns to the loop, where the factory's
%% protocol speaks over it from then on.
-spec attach(pid(), gen_tcp:socket() | gen_udp:socket() | port(), factory()) -> ok | {error, py:error() | term()}.
attach(Loop, Handle, Factory) ->
    attach(Loop, Handle, Factory, kind(Handle)).

-spec attach(pid(), gen_tcp:socket() | gen_udp:socket() | port(), factory(), kind()) -> ok | {error, py:error() | term()}.
attach(Loop, Handle, Factory, Kind) ->
    case give(Kind, Handle, Loop) of
        ok ->
            try gen_server:call(Loop, {attach, Kind, Handle, Factory}, ?TIMEOUT_MS)
            catch exit:_ -> {error, noproc}
            end;
        Error ->
            Error
    end.

-spec kind(term()) -> kind().
kind(Handle) when is_port(Handle) ->
    case erlang:port_info(Handle, name) of
        {name, "tcp_inet"} -> tcp;
        {name, "udp_inet"} -> udp;
        _ -> port
    end;
kind({'$inet', gen_udp_socket, _}) -> udp;
kind(_) -> tcp.

-spec give(kind(), term(), pid()) -> ok | {error, term()}.
give(tcp, Socket, Loop) ->
    case inet:setopts(Socket, [binary, {active, false}, {packet, raw}, {exit_on_close, false}]) of
        ok -> gen_tcp:controlling_process(Socket, Loop);
        Error -> Error
    end;
give(udp, Socket, Loop) ->
    case inet:setopts(Socket, [binary, {active, false}]) of
        ok -> gen_udp:controlling_process(Socket, Loop);
        Error -> Error
    end;
give(port, Port, Loop) ->
    try
        true = erlang:port_connect(Port, Loop),
        true = unlink(Port),
        forward(Port, Loop)
    catch
        error:badarg -> {error, closed}
    end.

%% What the port sent to its owner until now.
-spec forward(port(), pid()) -> ok.
forward(Port, Loop) ->
    receive
        {Port, _} = Message ->
            Loop ! Message,
            forward(Port, Loop)
    after 0 -> ok
    end.

%% ---- the process ----

-spec start_link(py_nif:event_port()) -> {ok, pid()} | ignore.
start_link(Port) ->
    gen_server:start_link(?MODULE, Port, []).

-spec init(py_nif:event_port()) -> {ok, #state{}} | ignore.
init(Port) ->
    process_flag(message_queue_data, off_heap),
    process_flag(trap_exit, true),
    case py_nif:events_attach(Port) of
        ok -> {ok, #state{port = Port}};
        closed -> ignore
    end.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}} | {noreply, #state{}}.
handle_call({attach, Kind, Handle, {Module, Function, Args}}, From, #state{waiting = Waiting} = State) ->
    Id = py_callback_id:next(),
    Control = {attach, Id, Kind, addresses(Kind, Handle), Module, Function, Args},
    case py_nif:events_post(State#state.port, [{?CONTROL, 0, Control}]) of
        ok ->
            Added = add(#channel{id = Id, kind = Kind, handle = Handle, writer = start_writer(Kind, Handle, Id)}, State),
            {noreply, Added#state{waiting = Waiting#{Id => From}}};
        closed ->
            {reply, {error, stopped}, State}
    end;
handle_call(_Call, _From, State) ->
    {reply, {error, unknown_call}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Cast, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, normal, #state{}}.
handle_info(closed, State) ->
    {stop, normal, State};
handle_info(Message, State) ->
    {Events, Next} = drain(Message, State, [], ?BATCH),
    case Events of
        [] ->
            {noreply, Next};
        _ ->
            case py_nif:events_post(Next#state.port, lists:reverse(Events)) of
                ok -> {noreply, Next};
                closed -> {stop, normal, Next}
            end
    end.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{by_id = Channels, waiting = Waiting}) ->
    maps:foreach(fun(_, From) -> gen_server:reply(From, {error, stopped}) end, Waiting),
    maps:foreach(fun(_, Channel) -> close(Channel) end, Channels).

%% The events of a message and of those behind it.
-spec drain(term(), #state{}, [tuple()], non_neg_integer()) -> {[tuple()], #state{}}.
drain(Message, State, Events, Left) ->
    {More, Next} = message(Message, State, Events),
    case Left of
        0 ->
            {More, Next};
        _ ->
            receive
                Another when
                    element(1, Another) =/= '$gen_call',
                    element(1, Another) =/= '$gen_cast',
                    element(1, Another) =/= system,
                    element(1, Another) =/= 'EXIT',
                    Another =/= closed
                ->
                    drain(Another, Next, More, Left - 1)
            after 0 -> {More, Next}
            end
    end.

-spec message(term(), #state{}, [tuple()]) -> {[tuple()], #state{}}.
message({py_results, Results}, State, Events) ->
    {lists:foldl(fun add_result/2, Events, Results), State};
message({py_written, Id, Bytes}, State, Events) ->
    {[{?WRITE, Id, Bytes} | Events], State};
message({py_failed, Id, Reason}, State, Events) ->
    {[{?SOCKET_ERROR, Id, Reason} | Events], State};
message({py_closed, Id}, #state{by_id = Channels} = State, Events) ->
    case Channels of
        #{Id := Channel} ->
            close_aside(Channel),
            {[{?SOCKET_CLOSED, Id, ended} | Events], remove(Channel, State)};
        _ ->
            {Events, State}
    end;
message({tcp, Socket, Data}, State, Events) ->
    event(?SOCKET_DATA, Socket, Data, State, Events);
message({tcp_passive, Socket}, State, Events) ->
    event(?SOCKET_DATA, Socket, passive, State, Events);
message({tcp_closed, Socket}, State, Events) ->
    event(?SOCKET_CLOSED, Socket, closed, State, Events);
message({tcp_error, Socket, Reason}, State, Events) ->
    event(?SOCKET_ERROR, Socket, Reason, State, Events);
message({udp, Socket, Address, Port, Data}, State, Events) ->
    event(?SOCKET_DATA, Socket, {text(Address), Port, Data}, State, Events);
message({udp_passive, Socket}, State, Events) ->
    event(?SOCKET_DATA, Socket, passive, State, Events);
message({udp_error, Socket, Reason}, State, Events) ->
    event(?SOCKET_ERROR, Socket, Reason, State, Events);
message({Port, {data, {_, Line}}}, State, Events) when is_port(Port) ->
    event(?SUBPROCESS_STDOUT, Port, Line, State, Events);
message({Port, {data, Data}}, #state{by_handle = Channels} = State, Events) when is_port(Port) ->
    case Channels of
        #{Port := #channel{kind = program, id = Id}} -> {[from_helper(Data, Id) | Events], State};
        _ -> event(?SUBPROCESS_STDOUT, Port, Data, State, Events)
    end;
message({Port, {exit_status, Status}}, #state{by_handle = Channels} = State, Events) when is_port(Port) ->
    case Channels of
        #{Port := #channel{kind = program, id = Id}} -> {[{?SOCKET_CLOSED, Id, closed} | Events], State};
        _ -> event(?SUBPROCESS_EXIT, Port, Status, State, Events)
    end;
message({'EXIT', Port, _}, State, Events) when is_port(Port) ->
    event(?SOCKET_CLOSED, Port, closed, State, Events);
message({Tag, Id, What}, State, Events) when Tag =:= py_write; Tag =:= py_tell; Tag =:= py_attached ->
    from_python(Tag, Id, What, State, Events);
message({Tag, Id}, State, Events) when Tag =:= py_read; Tag =:= py_end; Tag =:= py_abort; Tag =:= py_shut ->
    from_python(Tag, Id, none, State, Events);
message({py_fd, Type, Id}, State, Events) ->
    {[{Type, Id, none} | Events], State};
message({py_timer, Id}, State, Events) ->
    {[{?TIMER, Id, none} | Events], State#state{timer = undefined}};
message({py_timer, Ms, Id}, #state{timer = Timer} = State, Events) ->
    _ = is_reference(Timer) andalso erlang:cancel_timer(Timer, [{async, true}, {info, false}]),
    {Events, State#state{timer = erlang:send_after(Ms, self(), {py_timer, Id})}};
message({py_arm, Watches}, State, Events) ->
    ok = py_nif:beam_arm(Watches),
    {Events, State};
message({py_whoami, Id}, State, Events) ->
    {[{?ASYNC_RESULT, Id, self()} | Events], State};
message({py_open, Id, Program, Args, Options}, State, Events) ->
    open(Id, Program, Args, Options, State, Events);
message(_, State, Events) ->
    {Events, State}.

-spec add_result({non_neg_integer(), {ok, term()} | {error, term()}}, [tuple()]) -> [tuple()].
add_result({Id, {ok, Result}}, Events) -> [{?ASYNC_RESULT, Id, Result} | Events];
add_result({Id, {error, Reason}}, Events) -> [{?ASYNC_ERROR, Id, Reason} | Events].

%% Events of what is no longer ours are late.
-spec event(1..255, term(), term(), #state{}, [tuple()]) -> {[tuple()], #state{}}.
event(Type, Handle, Data, #state{by_handle = Channels} = State, Events) ->
    case Channels of
        #{Handle := #channel{id = Id}} -> {[{Type, Id, Data} | Events], State};
        _ -> {Events, State}
    end.

%% ---- what Python's transports ask for ----

-spec from_python(atom(), non_neg_integer(), term(), #state{}, [tuple()]) -> {[tuple()], #state{}}.
from_python(py_attached, Id, Answer, #state{waiting = Waiting, by_id = Channels} = State, Events) ->
    case Waiting of
        #{Id := From} -> gen_server:reply(From, Answer);
        _ -> ok
    end,
    Next = State#state{waiting = maps:remove(Id, Waiting)},
    case {Answer, Channels} of
        {ok, _} ->
            {Events, Next};
        {_, #{Id := Channel}} ->
            close_aside(Channel),
            {Events, remove(Channel, Next)};
        _ ->
            {Events, Next}
    end;
from_python(Tag, Id, What, #state{by_id = Channels} = State, Events) ->
    case Channels of
        #{Id := Channel} -> channel(Tag, What, Channel, State, Events);
        _ -> {Events, State}
    end.

-spec channel(atom(), term(), #channel{}, #state{}, [tuple()]) -> {[tuple()], #state{}}.
channel(py_read, _, #channel{kind = port}, State, Events) ->
    {Events, State};
channel(py_tell, {What, N}, #channel{kind = program, writer = Writer}, State, Events) ->
    Writer ! {tell, What, N},
    {Events, State};
channel(py_read, _, #channel{id = Id, handle = Socket}, State, Events) ->
    case inet:setopts(Socket, [{active, ?ACTIVE}]) of
        ok -> {Events, State};
        {error, einval} -> {[{?SOCKET_CLOSED, Id, closed} | Events], State};
        {error, Reason} -> {[{?SOCKET_ERROR, Id, Reason} | Events], State}
    end;
channel(py_write, Data, #channel{writer = Writer}, State, Events) ->
    Writer ! {write, Data},
    {Events, State};
channel(py_shut, _, #channel{writer = Writer}, State, Events) ->
    Writer ! shut,
    {Events, State};
channel(py_end, _, #channel{writer = Writer}, State, Events) ->
    Writer ! finish,
    {Events, State};
channel(py_abort, _, Channel, State, Events) ->
    exit(Channel#channel.writer, kill),
    close_aside(Channel),
    {Events, remove(Channel, State)}.

%% What the helper says of a program.
-spec from_helper(binary(), non_neg_integer()) -> tuple().
from_helper(<<1>>, Id) -> {?SUBPROCESS_STDOUT, Id, eof};
from_helper(<<1, Data/binary>>, Id) -> {?SUBPROCESS_STDOUT, Id, Data};
from_helper(<<2>>, Id) -> {?SUBPROCESS_STDERR, Id, eof};
from_helper(<<2, Data/binary>>, Id) -> {?SUBPROCESS_STDERR, Id, Data};
from_helper(<<3, OsPid:32>>, Id) -> {?WRITE, Id, {opened, OsPid}};
from_helper(<<4, Errno:32>>, Id) -> {?SOCKET_ERROR, Id, Errno};
from_helper(<<5, Size:32>>, Id) -> {?WRITE, Id, Size};
from_helper(<<6, Status:32/signed>>, Id) -> {?SUBPROCESS_EXIT, Id, Status}.

%% What it is told.
-spec for_helper(atom(), integer() | {1..2, non_neg_integer()}) -> binary().
for_helper(taken, {Fd, Size}) -> <<2, Fd, Size:32>>;
for_helper(unread, Fd) -> <<3, Fd>>;
for_helper(signal, Signal) -> <<4, Signal>>.

%% A program that Python starts: its transport is there already.
-spec open(non_neg_integer(), binary(), [binary()], #{atom() => term()}, #state{}, [tuple()]) -> {[tuple()], #state{}}.
open(Id, Program, Args, Options, State, Events) ->
    Merge =
        case Options of
            #{stderr_to_stdout := true} -> <<"1">>;
            _ -> <<"0">>
        end,
    Helper = filename:absname(filename:join(py_env:priv_dir(), "erlpy")),
    Settings = [
        {arg0, "erlpy_port"},
        {args, [Merge, maps:get(cd, Options, <<>>), Program | Args]},
        {env, environment(maps:get(env, Options, #{}))},
        {packet, 4},
        binary,
        exit_status,
        hide
    ],
    try open_port({spawn_executable, Helper}, Settings) of
        Port -> {Events, add(#channel{id = Id, kind = program, handle = Port, writer = start_writer(program, Port, Id)}, State)}
    catch
        error:Reason -> {[{?SOCKET_ERROR, Id, Reason} | Events], State}
    end.

-spec environment(#{binary() => binary()}) -> [{string(), string()}].
environment(Env) ->
    [{unicode:characters_to_list(K), unicode:characters_to_list(V)} || {K, V} <- maps:to_list(Env)].

%% ---- sockets and ports ----

-spec add(#channel{}, #state{}) -> #state{}.
add(#channel{id = Id, handle = Handle} = Channel, #state{by_id = Ids, by_handle = Handles} = State) ->
    State#state{by_id = Ids#{Id => Channel}, by_handle = Handles#{Handle => Channel}}.

-spec remove(#channel{}, #state{}) -> #state{}.
remove(#channel{id = Id, handle = Handle}, #state{by_id = Ids, by_handle = Handles} = State) ->
    State#state{by_id = maps:remove(Id, Ids), by_handle = maps:remove(Handle, Handles)}.

%% A socket is closed by a process of its own, as that waits until the peer has taken what the emulator holds.
-spec close_aside(#channel{}) -> ok.
close_aside(#channel{kind = tcp} = Channel) ->
    _ = spawn(fun() -> close(Channel) end),
    ok;
close_aside(Channel) ->
    close(Channel).

-spec close(#channel{}) -> ok.
close(#channel{kind = Kind, handle = Port, writer = Writer}) when Kind =:= port; Kind =:= program ->
    exit(Writer, kill),
    try erlang:port_close(Port) of
        true -> ok
    catch
        error:badarg -> ok
    end;
close(#channel{kind = tcp, handle = Socket, writer = Writer}) ->
    exit(Writer, kill),
    gen_tcp:close(Socket);
close(#channel{kind = udp, handle = Socket, writer = Writer}) ->
    exit(Writer, kill),
    gen_udp:close(Socket).

-spec addresses(kind(), term()) -> {term(), term()}.
addresses(port, Port) ->
    {erlang:port_info(Port, os_pid), none};
addresses(_, Socket) ->
    {address(inet:sockname(Socket)), address(inet:peername(Socket))}.

-spec address(term()) -> {binary(), inet:port_number()} | binary() | none.
address({ok, {local, Path}}) -> iolist_to_binary(Path);
address({ok, {Address, Port}}) -> {text(Address), Port};
address(_) -> none.

-spec text(inet:ip_address() | term()) -> binary().
text(Address) ->
    case inet:ntoa(Address) of
        {error, einval} -> iolist_to_binary(io_lib:format("~p", [Address]));
        Text -> list_to_binary(Text)
    end.

%% ---- the writer of one socket or port ----

-spec start_writer(kind(), term(), non_neg_integer()) -> pid().
start_writer(Kind, Handle, Id) ->
    Loop = self(),
    spawn_link(fun() -> writer(Kind, Handle, Id, Loop) end).

-spec writer(kind(), term(), non_neg_integer(), pid()) -> ok.
writer(Kind, Handle, Id, Loop) ->
    receive
        {write, Data} ->
            {All, Size} = more(Kind, Data, size_of(Data)),
            case write_pieces(Kind, Handle, Id, Loop, All, Size) of
                ok ->
                    writer(Kind, Handle, Id, Loop);
                {error, Reason} ->
                    Loop ! {py_failed, Id, Reason},
                    ok
            end;
        shut ->
            _ = shut(Kind, Handle),
            writer(Kind, Handle, Id, Loop);
        {tell, What, N} ->
            _ = command(Handle, for_helper(What, N)),
            writer(Kind, Handle, Id, Loop);
        finish ->
            Loop ! {py_closed, Id},
            ok
    end.

%% The emulator takes a piece of any size at once and blocks at the next one, so pieces are small.
-spec write_pieces(kind(), term(), non_neg_integer(), pid(), term(), non_neg_integer()) -> ok | {error, term()}.
write_pieces(Kind, Handle, Id, Loop, Data, Size) when Size > ?PIECE, Kind =/= udp ->
    <<Piece:?PIECE/binary, Rest/binary>> = iolist_to_binary(Data),
    case write_pieces(Kind, Handle, Id, Loop, Piece, ?PIECE) of
        ok -> write_pieces(Kind, Handle, Id, Loop, Rest, Size - ?PIECE);
        Error -> Error
    end;
write_pieces(Kind, Handle, Id, Loop, Data, Size) ->
    case write(Kind, Handle, Data) of
        ok when Kind =:= program -> %% the helper says when the program has it
            ok;
        ok ->
            Loop ! {py_written, Id, Size},
            ok;
        Error ->
            Error
    end.

%% What else waits to be written goes in the same call.
-spec more(kind(), term(), non_neg_integer()) -> {iodata() | tuple(), non_neg_integer()}.
more(Kind, Data, Size) when Kind =:= udp; Size >= ?PIECE ->
    {Data, Size};
more(Kind, Data, Size) ->
    receive
        {write, Next} -> more(Kind, [Data, Next], Size + size_of(Next))
    after 0 -> {Data, Size}
    end.

-spec size_of(term()) -> non_neg_integer().
size_of({_Address, _Port, Data}) -> byte_size(Data);
size_of(Data) -> iolist_size(Data).

-spec write(kind(), term(), term()) -> ok | {error, term()}.
write(tcp, Socket, Data) ->
    gen_tcp:send(Socket, Data);
write(udp, Socket, {Address, Port, Data}) ->
    {ok, Parsed} = inet:parse_address(binary_to_list(Address)),
    gen_udp:send(Socket, Parsed, Port, Data);
write(udp, Socket, Data) ->
    gen_udp:send(Socket, Data);
write(port, Port, Data) ->
    command(Port, Data);
write(program, Port, Data) ->
    command(Port, [0, Data]).

-spec shut(kind(), term()) -> ok | {error, term()}.
shut(tcp, Socket) -> gen_tcp:shutdown(Socket, write);
shut(program, Port) -> command(Port, <<1>>);
shut(_, _) -> ok.

-spec command(port(), iodata()) -> ok | {error, epipe}.
command(Port, Data) ->
    try erlang:port_command(Port, Data) of
        true -> ok
    catch
        error:badarg -> {error, epipe}
    end.
