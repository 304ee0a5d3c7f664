%% Functions that Python calls. A server receives the calls (one server for each scheduler, so that none is a bottleneck),
%% spawns a linked process for each and tells the NIF; that process runs the function, answers and ends. See
%% docs/callbacks.md and c_src/callback.h.
%%
%% The process of a function has in its dictionary `$callers` (the process whose request led here, then the one whose
%% request led to that one, and so on) and the chain, which its own requests to Python inherit.
-module(py_callback).

-export([start_link/2]).
-export([init/3]).
-export([system_continue/3]).
-export([system_terminate/4]).
-export([system_code_change/4]).
-export([run/5]).
-export([run_from/7]).
-export([watch/2]).

-export([init_table/0]).
-export([children/0]).
-export([add/3]).
-export([remove/1]).
-export([names/0]).
-export([foreign/2]).
-export([chain/0]).

-export_type([target_fun/0]).
-export_type([chain/0]).
-export_type([answer/0]).
-export_type([target/0]).

-type target_fun() :: fun() | {module(), atom()}.
-type options() :: #{binaries => auto | bytes}.
-opaque chain() :: {
    py_chain,
    Chain :: non_neg_integer(),
    Callback :: non_neg_integer(),
    DeadlineNs :: non_neg_integer(),
    Trace :: term(),
    Callers :: [pid()]
}.
-type frame() :: {module(), atom(), arity(), binary() | undefined, pos_integer() | undefined}.
-type answer() ::
    {ok | bytes, term()}
    | {error, error | exit | throw, term(), list(), {Text :: unicode:unicode_binary(), [frame()]} | undefined}.
-type target() ::
    {Name :: binary()}
    | {monitor, pid() | atom() | {atom(), node()}}
    | {down, Watcher :: pid()}
    | target_fun()
    | {apply, module() | binary(), atom() | binary()}
    | {internal, Operation :: binary()}.

-define(CHAIN, '$py_chain').
-define(TRACE, 5).
-define(CALLERS, 6).
-define(MAX_SERVERS, 16).
%% Between a monitor and the wait for it, which come in one breath.
-define(WATCH_MS, 60000).

-record(state, {
    parent :: pid(),
    index :: non_neg_integer()
}).

%% ---- registration ----

-spec init_table() -> ok.
init_table() ->
    ?MODULE = ets:new(?MODULE, [named_table, public, {read_concurrency, true}]),
    %% What the Python package itself calls.
    true = ets:insert(?MODULE, [
        {<<"$output">>, {py_output, write}, ok},
        {<<"$input">>, {py_output, read_line}, ok},
        {<<"$isatty">>, {py_output, isatty}, ok},
        {<<"$log">>, {py_logger, log}, ok},
        {<<"$span">>, {py_telemetry, span_ended}, ok}
    ]),
    publish().

-spec children() -> [supervisor:child_spec()].
children() ->
    Count = min(?MAX_SERVERS, erlang:system_info(schedulers)),
    [
        #{id => {?MODULE, Index}, start => {?MODULE, start_link, [Index, Count]}, shutdown => 2000}
     || Index <- lists:seq(0, Count - 1)
    ].

-spec add(atom() | binary(), target_fun(), options()) -> ok.
add(Name, Function, Options) ->
    valid(Function) orelse error(badarg),
    Tag =
        case maps:get(binaries, Options, auto) of
            auto -> ok;
            bytes -> bytes
        end,
    change({register, name(Name), Function, Tag}).

-spec remove(atom() | binary()) -> ok.
remove(Name) ->
    change({unregister, name(Name)}).

%% The names that Python can call.
-spec names() -> [binary()].
names() ->
    [Name || Name <- all_names(), binary:first(Name) =/= $$].

%% The names that a node, for which that process works, knows in addition.
-spec foreign(pid(), [binary()]) -> ok.
foreign(Server, Names) ->
    change({foreign, Server, Names}).

-spec all_names() -> [binary()].
all_names() ->
    lists:sort(ets:select(?MODULE, [{{'$1', '_', '_'}, [], ['$1']}])).

%% The chain of calls this process is part of, `undefined` outside.
-spec chain() -> chain() | undefined.
chain() ->
    get(?CHAIN).

-spec valid(term()) -> boolean().
valid({Module, Function}) -> is_atom(Module) andalso is_atom(Function);
valid(Function) -> is_function(Function).

-spec name(atom() | binary()) -> binary().
name(Name) when is_atom(Name) -> atom_to_binary(Name);
name(Name) when is_binary(Name) -> Name.

%% By one server, so that the names in C are those of the table.
-spec change(tuple()) -> ok.
change(Change) ->
    gen_server:call(server(0), Change).

-spec server(non_neg_integer()) -> atom().
server(Index) ->
    list_to_atom("py_callback_" ++ integer_to_list(Index)).

%% ---- servers ----

-spec start_link(non_neg_integer(), pos_integer()) -> {ok, pid()} | {error, term()}.
start_link(Index, Count) ->
    proc_lib:start_link(?MODULE, init, [self(), Index, Count]).

-spec init(pid(), non_neg_integer(), pos_integer()) -> no_return().
init(Parent, Index, Count) ->
    process_flag(trap_exit, true),
    process_flag(message_queue_data, off_heap),
    process_flag(priority, high),
    true = erlang:register(server(Index), self()),
    ok = py_nif:callback_server(Index, Count),
    proc_lib:init_ack(Parent, {ok, self()}),
    loop(#state{parent = Parent, index = Index}).

-spec loop(#state{}) -> no_return().
loop(#state{parent = Parent} = State) ->
    receive
        {py_call, Id, Target, Args, Caller, Chain} ->
            start(Id, Target, Args, Caller, Chain),
            loop(State);
        {'EXIT', Parent, Reason} ->
            exit(Reason);
        {'EXIT', _Pid, normal} ->
            loop(State);
        {'EXIT', Pid, Reason} ->
            _ = py_nif:callback_down(Pid, failure(exit, Reason, [])),
            loop(State);
        {py_kill, Pid} ->
            exit(Pid, kill),
            loop(State);
        {py_send, To, Message} ->
            _ = send(To, Message),
            loop(State);
        {'$gen_call', From, Change} ->
            gen_server:reply(From, changed(Change)),
            loop(State);
        {system, From, Request} ->
            sys:handle_system_msg(Request, From, Parent, ?MODULE, [], State);
        _ ->
            loop(State)
    end.

-spec start(non_neg_integer(), target(), [term()], pid() | undefined, chain()) -> ok.
start(Id, {down, Watcher}, _Args, _Caller, _Chain) ->
    _ = py_nif:callback_begin(Id, Watcher),
    Watcher ! {py_down, Id},
    %% One that is dead already will not say so again.
    case is_process_alive(Watcher) of
        true -> ok;
        false -> _ = py_nif:callback_down(Watcher, failure(exit, killed, [])), ok
    end;
start(Id, {monitor, Process}, _Args, _Caller, _Chain) ->
    _ = py_nif:callback_begin(Id, spawn_link(?MODULE, watch, [Id, Process])),
    ok;
start(Id, {internal, _} = Target, Args, Caller, Chain) ->
    case home(Target, callers(Caller, Chain)) of
        here ->
            %% it takes no time
            _ = py_nif:callback_reply(Id, guarded(fun() -> invoke(Target, Args) end)),
            ok;
        _ ->
            start_process(Id, Target, Args, Caller, Chain)
    end;
start(Id, Target, Args, Caller, Chain) ->
    start_process(Id, Target, Args, Caller, Chain).

-spec start_process(non_neg_integer(), target(), [term()], pid() | undefined, chain()) -> ok.
start_process(Id, Target, Args, Caller, Chain) ->
    Pid = spawn_link(?MODULE, run, [Id, Target, Args, Caller, Chain]),
    case py_nif:callback_begin(Id, Pid) of
        true -> ok;
        false -> exit(Pid, kill), ok
    end.

-spec send(term(), term()) -> ok.
send(To, Message) ->
    try
        _ = erlang:send(To, Message),
        ok
    catch
        error:badarg -> ok
    end.

-spec changed(tuple()) -> ok.
changed({register, Name, Function, Tag}) ->
    true = ets:insert(?MODULE, {Name, Function, Tag}),
    publish();
changed({foreign, Server, []}) ->
    true = ets:delete(?MODULE, Server),
    publish();
changed({foreign, Server, Names}) ->
    true = ets:insert(?MODULE, {Server, Names}),
    publish();
changed({unregister, Name}) ->
    true = ets:delete(?MODULE, Name),
    publish().

-spec publish() -> ok.
publish() ->
    Names = all_names(),
    Foreign = lists:append(ets:select(?MODULE, [{{'_', '$1'}, [], ['$1']}])),
    ok = py_nif:callback_names(maps:from_list([{Name, true} || Name <- Names ++ Foreign])),
    py_node:names([Name || Name <- Names, binary:first(Name) =/= $$]).

-spec system_continue(pid(), [sys:dbg_opt()], #state{}) -> no_return().
system_continue(Parent, _Debug, State) ->
    loop(State#state{parent = Parent}).

-spec system_terminate(term(), pid(), [sys:dbg_opt()], #state{}) -> no_return().
system_terminate(Reason, _Parent, _Debug, _State) ->
    exit(Reason).

-spec system_code_change(#state{}, module(), term(), term()) -> {ok, #state{}}.
system_code_change(State, _Module, _OldVsn, _Extra) ->
    {ok, State}.

%% ---- a call, in its own process ----

-spec run(non_neg_integer(), target(), [term()], pid() | undefined, chain()) -> boolean().
run(Id, Target, Args, Caller, Chain) ->
    Callers = callers(Caller, Chain),
    put(?CHAIN, setelement(?CALLERS, Chain, Callers)),
    put('$callers', Callers),
    Answer =
        case home(Target, Callers) of
            here -> guarded(fun() -> traced(Target, Args, Caller) end);
            Home -> py_node:call_home(Home, Target, Args, setelement(?CALLERS, Chain, Callers))
        end,
    py_nif:callback_reply(Id, Answer).

%% Where the function is: what is not registered on this node is at home where the chain of calls comes from.
-spec home(target(), [pid()]) -> node() | here.
home({<<First, _/binary>> = Name}, Callers) when First =/= $$ ->
    case ets:member(?MODULE, Name) of
        true -> here;
        false -> py_node:home(Callers)
    end;
home(_Target, Callers) ->
    py_node:home(Callers).

-spec callers(pid() | undefined, chain()) -> [pid()].
callers(undefined, Chain) -> element(?CALLERS, Chain);
callers(Caller, Chain) -> [Caller | element(?CALLERS, Chain)].

%% For Python on another node, whose process From waits for it; linked to it.
-spec run_from(pid(), reference(), target(), [term()], chain(), Origin :: term(), Relay :: pid() | undefined) -> ok.
run_from(From, Ref, Target, Args, Chain, Origin, Relay) ->
    Callers = element(?CALLERS, Chain),
    Caller =
        case Callers of
            [Pid | _] -> Pid;
            [] -> undefined
        end,
    {group_leader, Leader} = process_info(whereis(server(0)), group_leader),
    true = group_leader(Leader, self()),
    %% the chain's numbers mean something there alone, and so does its clock
    put(?CHAIN, {py_chain, 0, 0, 0, element(?TRACE, Chain), Callers}),
    put('$py_origin', {Origin, Chain}),
    put('$callers', Callers),
    Answer = guarded(fun() -> traced(Target, py_node:here(Args, Relay), Caller) end),
    From ! {Ref, py_node:there(Answer, Relay)},
    true = is_tuple(Answer), %% and lives until now, with the refs in it
    ok.

%% The package's own functions are not the user's calls.
-spec traced(target(), [term()], pid() | undefined) -> answer().
traced({<<"$", _/binary>>} = Target, Args, _Caller) ->
    invoke(Target, Args);
traced({internal, _} = Target, Args, _Caller) ->
    invoke(Target, Args);
traced(Target, Args, Caller) ->
    py_telemetry:span(callback, #{target => Target, caller => Caller}, fun() -> invoke(Target, Args) end).

-spec guarded(fun(() -> answer())) -> answer().
guarded(Fun) ->
    try
        Fun()
    catch
        Class:Reason:Stack -> failure(Class, Reason, Stack)
    end.

-spec invoke(target(), [term()]) -> answer().
invoke({Name}, Args) ->
    case ets:lookup(?MODULE, Name) of
        [{_, Function, Tag}] -> {Tag, call(Function, Args)};
        [] -> failure(error, {not_registered, Name}, [])
    end;
invoke({internal, Operation}, Args) ->
    {ok, py_state:operation(Operation, Args)};
invoke({apply, M, F}, Args) ->
    case allowed(existing(M), existing(F), length(Args)) of
        {true, Module, Function} -> {ok, apply(Module, Function, Args)};
        false -> failure(error, {not_allowed, {M, F, length(Args)}}, [])
    end;
invoke(Fun, Args) ->
    {ok, apply(Fun, Args)}.

-spec call(target_fun(), [term()]) -> term().
call({Module, Function}, Args) -> apply(Module, Function, Args);
call(Fun, Args) -> apply(Fun, Args).

%% What erlang.apply may call: application environment `callback_apply`, which is `registered` (functions registered as
%% {Module, Function}), `all`, or a list of Module, {Module, Function} and {Module, Function, Arity}.
-spec allowed(atom() | undefined, atom() | undefined, arity()) -> {true, module(), atom()} | false.
allowed(undefined, _, _) ->
    false;
allowed(_, undefined, _) ->
    false;
allowed(Module, Function, Arity) ->
    Allowed =
        case application:get_env(erlang_python, callback_apply, registered) of
            all -> true;
            registered -> ets:match(?MODULE, {'_', {Module, Function}, '_'}) =/= [];
            List -> lists:any(fun(M) -> lists:member(M, List) end, [Module, {Module, Function}, {Module, Function, Arity}])
        end,
    case Allowed of
        true -> {true, Module, Function};
        false -> false
    end.

-spec existing(atom() | binary()) -> atom().
existing(Name) when is_atom(Name) ->
    Name;
existing(Name) ->
    try
        binary_to_existing_atom(Name)
    catch
        error:badarg -> undefined
    end.

%% A monitor of Python's: this process holds it, says so, and answers when the other one ends. Killing it demonitors.
-spec watch(non_neg_integer(), pid() | atom() | {atom(), node()}) -> boolean().
watch(Id, Process) ->
    Ref = monitor(process, Process),
    py_nif:callback_reply(Id, {ok, self()}) andalso
        receive
            {py_down, DownId} ->
                receive
                    {'DOWN', Ref, process, _, Reason} -> py_nif:callback_reply(DownId, {ok, Reason})
                end
        after ?WATCH_MS -> false
        end.

%% ---- errors ----

-spec failure(error | exit | throw, term(), list()) -> answer().
failure(Class, Reason, Stack) ->
    Text = unicode:characters_to_binary(erl_error:format_exception(Class, Reason, [])),
    {error, Class, Reason, Stack, {string:trim(Text), [frame(F) || F <- Stack]}}.

%% Dialyzer does not know the form of a fun.
-dialyzer({no_match, frame/1}).
-spec frame(tuple()) -> frame().
frame({Module, Function, Args, Location}) when is_list(Args) ->
    frame({Module, Function, length(Args), Location});
frame({Module, Function, Arity, Location}) ->
    File =
        case Location of
            [_ | _] -> proplists:get_value(file, Location);
            _ -> undefined
        end,
    {
        Module,
        Function,
        Arity,
        case File of
            undefined -> undefined;
            _ -> unicode:characters_to_binary(File)
        end,
        case File of
            undefined -> undefined;
            _ -> proplists:get_value(line, Location)
        end
    };
frame({Fun, Args, Location}) ->
    {module, Module} = erlang:fun_info(Fun, module),
    {name, Name} = erlang:fun_info(Fun, name),
    frame({Module, Name, Args, Location}).
