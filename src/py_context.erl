%% A context: the Erlang process that owns an interpreter's namespace, queue and worker threads. Its pid names it in
%% every function of `py`. When the process ends, however it ends, every open request is answered {error, stopped}.
-module(py_context).
-behaviour(gen_server).

-export([start/0]).
-export([start/1]).
-export([start_link/0]).
-export([start_link/1]).
-export([stop/1]).
-export([start_loop/1]).
-export([stop_loop/1]).
-export([stop_loop/2]).
-export([info/1]).
-export([list/0]).
-export([find/1]).
-export([lookup/1]).
-export([default/0]).

-export([init/1]).
-export([handle_continue/2]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).
-export([terminate/2]).

-export_type([options/0]).
-export_type([later/0]).

-type options() :: #{
    name => atom(),
    threads => pos_integer(),
    spin_us => non_neg_integer(),
    max_queue => pos_integer() | infinity,
    binaries => auto | bytes,
    sys_path => [file:name_all()],
    preload => [module()] | [binary()],
    isolation => thread | interpreter | py_node:isolation(),
    loop => native | beam,
    shares_main => boolean(),
    restart => temporary | permanent,
    python => file:name_all(),
    code_path => [file:filename()],
    env => [{string(), string() | false}],
    args => [string()],
    wrap => [string()],
    boot_ms => pos_integer()
}.
%% name: for py:context/1 and py:info/0. threads: most worker threads, default 1 (the context keeps thread affinity).
%% spin_us: how long an idle worker spins before it sleeps, default 20, 0 on one core. max_queue: requests that may wait,
%% beyond it {error, overloaded}, default 100000. binaries: bytes makes every binary `bytes`. sys_path: put in front of
%% sys.path. preload: modules imported before the context is ready. loop: the backend of its event loop; the default is
%% that of the application's environment, else native. isolation: interpreter gives the context a Python interpreter of its
%% own with its own GIL (Python 3.13 or later); thread, the default, a namespace in the main one; node puts it on an Erlang
%% node of its own, {node, Name} on that one. For those two, restart: permanent starts another one when the one there was
%% has ended. For a node of its own: see py_peer.

-define(PEER, [python, code_path, env, args, wrap, boot_ms]).
-define(DRAIN_MS, 10000).
-define(PRELOAD_MS, 60000).
-define(INFINITE_QUEUE, 16#ffffffffffffffff).
-define(BYTES, 1).
-define(LOOP_ON_BEAM, 16#100).

%% Who waits for the context, which comes later.
-type later() :: {later, pid(), reference(), options()}.

-record(state, {
    handle :: undefined | py_nif:context() | py_node:handle(), %% undefined: it has yet to come
    name :: atom()
}).

%% Starts a context under the application's supervisor.
-spec start() -> {ok, pid()} | {error, term()}.
start() ->
    start(#{}).

-spec start(options()) -> {ok, pid()} | {error, term()}.
start(Options) ->
    case Options of
        #{isolation := node} -> start_later(Options);
        #{isolation := {node, _}} -> start_later(Options);
        _ -> py_context_sup:start_context(Options)
    end.

%% A node takes its time to start, and the supervisor has more to do.
-spec start_later(options()) -> {ok, pid()} | {error, term()}.
start_later(Options) ->
    Tag = make_ref(),
    case py_context_sup:start_context({later, self(), Tag, Options}) of
        {ok, Context} ->
            Monitor = monitor(process, Context),
            receive
                {Tag, Started} ->
                    true = demonitor(Monitor, [flush]),
                    Started;
                {'DOWN', Monitor, process, _, Reason} ->
                    receive {Tag, Started} -> Started after 0 -> {error, Reason} end
            end;
        Error ->
            Error
    end.

%% Starts a context linked to the caller.
-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    start_link(#{}).

-spec start_link(options()) -> {ok, pid()} | {error, term()}.
start_link(Options) ->
    gen_server:start_link(?MODULE, Options, [{timeout, infinity}]).

%% Stops a context: waiting requests are answered {error, stopped}, running ones are interrupted.
-spec stop(pid()) -> ok.
stop(Context) ->
    gen_server:stop(Context).

%% Starts the context's loop, as its first async call would.
-spec start_loop(pid()) -> ok | {error, noproc | stopped | system_limit}.
start_loop(Context) ->
    with_handle(Context, fun(Handle) ->
        case is_reference(Handle) andalso py_nif:loop_start(Handle) of
            ok -> ok;
            false -> error_of(py_node:control(Handle, loop_start));
            Reason -> {error, Reason}
        end
    end).

%% Stops the loop with ten seconds for what runs there.
-spec stop_loop(pid()) -> ok | {error, noproc | not_started}.
stop_loop(Context) ->
    stop_loop(Context, ?DRAIN_MS).

%% Stops the context's loop: it takes nothing new ({error, stopped}), what Erlang waits for and its TaskTracker's work may
%% go on for DrainMs, then the rest is cancelled and answered {error, stopped}. The next async call starts another one.
-spec stop_loop(pid(), non_neg_integer()) -> ok | {error, noproc | not_started}.
stop_loop(Context, DrainMs) ->
    with_handle(Context, fun(Handle) ->
        Ref = make_ref(),
        case is_reference(Handle) andalso py_nif:loop_stop(Handle, Ref, DrainMs) of
            ok -> receive {Ref, ok} -> ok end;
            false -> error_of(py_node:control(Handle, {loop_stop, DrainMs}));
            not_started -> {error, not_started}
        end
    end).

-spec error_of(ok | {error, term()} | term()) -> ok | {error, term()}.
error_of(ok) -> ok;
error_of({error, _} = Error) -> Error;
error_of(Reason) -> {error, Reason}.

-spec with_handle(pid(), fun((py_nif:context() | py_node:handle()) -> Result)) -> Result | {error, noproc}.
with_handle(Context, Fun) ->
    case lookup(Context) of
        {ok, Handle} -> Fun(Handle);
        error -> {error, noproc}
    end.

%% What it is doing; see py:info/0.
-spec info(pid()) -> #{atom() => term()} | undefined.
info(Context) ->
    case py_context_registry:lookup(Context) of
        {ok, Handle, Name} -> info(Context, Handle, Name);
        error -> undefined
    end.

-spec info(pid(), py_nif:context() | py_node:handle(), atom()) -> #{atom() => term()} | undefined.
info(Context, Handle, Name) when is_reference(Handle) ->
    (py_nif:context_info(Handle))#{name => Name, pid => Context, node => node()};
info(Context, Handle, Name) ->
    case py_node:info(Handle) of
        #{} = Info -> Info#{name => Name, pid => Context, isolation => py_node:isolation(Handle)};
        {error, _} -> undefined
    end.

-spec list() -> [pid()].
list() ->
    py_context_registry:list().

%% The context of that name.
-spec find(atom()) -> pid() | undefined.
find(Name) ->
    py_context_registry:find(Name).

-spec lookup(pid()) -> {ok, py_nif:context() | py_node:handle()} | error.
lookup(Context) ->
    case py_context_registry:lookup(Context) of
        {ok, Handle, _} -> {ok, Handle};
        error -> error
    end.

%% The default context.
-spec default() -> {pid(), py_nif:context() | py_node:handle()} | undefined.
default() ->
    py_context_registry:default().

-spec init(options() | later()) -> {ok, #state{}} | {ok, #state{}, {continue, later()}} | {stop, term()}.
init({later, _, _, _} = Later) ->
    process_flag(trap_exit, true),
    {ok, #state{}, {continue, Later}};
init(Options) ->
    process_flag(trap_exit, true),
    try parse(Options) of
        {Isolation, _, _, _, _, _} when Isolation =:= node; is_tuple(Isolation) ->
            open(Isolation, Options, maps:get(name, Options, undefined));
        {Isolation, Shared, Threads, SpinNs, MaxQueue, Flags} ->
            case interpreter(Isolation, maps:get(name, Options, undefined)) of
                {ok, Interpreter} ->
                    case py_nif:context_new(Shared, Threads, SpinNs, MaxQueue, Flags, Interpreter) of
                        {ok, Handle} -> prepare(Handle, Options);
                        {error, Reason} -> {stop, Reason}
                    end;
                {error, Reason} ->
                    {stop, {isolation, Isolation, Reason}}
            end
    catch
        throw:{bad_option, _} = Bad -> {stop, Bad}
    end.

-spec interpreter(thread | interpreter, atom()) -> {ok, py_nif:interpreter() | main} | {error, term()}.
interpreter(thread, _Name) ->
    {ok, main};
interpreter(interpreter, Name) ->
    py_interpreter:start(Name).

%% On another node, which does what prepare/2 does here.
-spec open(py_node:isolation(), options(), atom()) -> {ok, #state{}} | {stop, term()}.
open(Isolation, Options, Name) ->
    case find(Name) of
        undefined ->
            case py_node:open(Isolation, Options) of
                {ok, Handle} -> enter(Handle, Name);
                {error, Reason} -> {stop, Reason}
            end;
        Other ->
            {stop, {already_started, Other}}
    end.

-spec handle_continue(later(), #state{}) -> {noreply, #state{}} | {stop, {shutdown, term()}, #state{}}.
handle_continue({later, Starter, Tag, Options}, State) ->
    case init(Options) of
        {ok, Ready} ->
            Starter ! {Tag, {ok, self()}},
            {noreply, Ready};
        {stop, Reason} ->
            Starter ! {Tag, {error, Reason}},
            {stop, {shutdown, Reason}, State}
    end.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, {error, unknown_call}, #state{}}.
handle_call(_Call, _From, State) ->
    {reply, {error, unknown_call}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(_Cast, State) ->
    {noreply, State}.

%% Exits are trapped for terminate/2 alone: those of linked processes end a context as they end any process.
-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({'EXIT', _From, Reason}, State) when Reason =/= normal ->
    {stop, Reason, State};
handle_info({py_node, _Relay, {down, Reason}}, State) ->
    {stop, {node_down, Reason}, State};
handle_info(_Info, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{handle = undefined}) ->
    ok;
terminate(_Reason, #state{handle = Handle}) ->
    ok = py_context_registry:remove(self()),
    close(Handle).

-spec close(py_nif:context() | py_node:handle()) -> ok.
close(Handle) when is_reference(Handle) -> py_nif:context_close(Handle);
close(Handle) -> py_node:close(Handle).

-spec parse(options()) ->
    {thread | interpreter | py_node:isolation(), boolean(), pos_integer(), non_neg_integer(), pos_integer(), non_neg_integer()}.
parse(Options) when not is_map(Options) ->
    throw({bad_option, Options});
parse(Options) ->
    Known =
        [name, threads, spin_us, max_queue, binaries, sys_path, preload, isolation, loop, shares_main] ++
            case option(isolation, Options, thread, fun is_isolation/1) of
                node -> [restart | ?PEER];
                {node, _} -> [restart];
                _ -> []
            end,
    case maps:keys(maps:without(Known, Options)) of
        [] -> ok;
        [Unknown | _] -> throw({bad_option, Unknown})
    end,
    SpinUs =
        case erlang:system_info(logical_processors_available) of
            1 -> 0;
            _ -> 20
        end,
    IsName = fun(N) -> (is_atom(N) orelse is_binary(N)) end,
    _ = option(restart, Options, temporary, fun(R) -> R =:= temporary orelse R =:= permanent end),
    _ = option(python, Options, "", fun is_path/1),
    _ = option(boot_ms, Options, 1, fun(N) -> is_integer(N) andalso N > 0 end),
    _ = [option(K, Options, [], fun is_strings/1) || K <- [code_path, args, wrap]],
    _ = option(env, Options, [], fun(Env) -> is_list(Env) andalso lists:all(fun is_variable/1, Env) end),
    _ = option(name, Options, undefined, fun erlang:is_atom/1),
    _ = option(preload, Options, [], fun(Names) -> is_list(Names) andalso lists:all(IsName, Names) end),
    _ = option(sys_path, Options, [], fun(Paths) -> is_list(Paths) andalso lists:all(fun is_path/1, Paths) end),
    Isolation = option(isolation, Options, thread, fun is_isolation/1),
    {
        Isolation,
        %% an interpreter of its own has a __main__ of its own
        option(shares_main, Options, false, fun erlang:is_boolean/1) orelse Isolation =:= interpreter,
        option(threads, Options, 1, fun(N) -> is_integer(N) andalso N > 0 andalso N =< 65536 end),
        1000 * option(spin_us, Options, SpinUs, fun(N) -> is_integer(N) andalso N >= 0 andalso N =< 1000000 end),
        case option(max_queue, Options, 100000, fun(N) -> N =:= infinity orelse (is_integer(N) andalso N > 0) end) of
            infinity -> ?INFINITE_QUEUE;
            Max -> Max
        end,
        flag(option(binaries, Options, auto, fun(B) -> B =:= auto orelse B =:= bytes end)) bor
            flag(option(loop, Options, application:get_env(erlang_python, loop, native), fun is_backend/1))
    }.

-spec flag(auto | bytes | native | beam) -> non_neg_integer().
flag(auto) -> 0;
flag(bytes) -> ?BYTES;
flag(native) -> 0;
flag(beam) -> ?LOOP_ON_BEAM.

-spec is_backend(term()) -> boolean().
is_backend(Backend) ->
    Backend =:= native orelse Backend =:= beam.

-spec option(atom(), options(), Value, fun((term()) -> boolean())) -> Value.
option(Key, Options, Default, Valid) ->
    Value = maps:get(Key, Options, Default),
    case Valid(Value) of
        true -> Value;
        false -> throw({bad_option, {Key, Value}})
    end.

-spec is_isolation(term()) -> boolean().
is_isolation({node, Node}) -> is_atom(Node);
is_isolation(Isolation) -> lists:member(Isolation, [thread, interpreter, node]).

-spec is_strings(term()) -> boolean().
is_strings(List) ->
    is_list(List) andalso lists:all(fun io_lib:char_list/1, List).

-spec is_variable(term()) -> boolean().
is_variable({Name, Value}) -> is_strings([Name]) andalso (Value =:= false orelse is_strings([Value]));
is_variable(_) -> false.

-spec is_path(term()) -> boolean().
is_path(Path) ->
    is_binary(Path) orelse io_lib:printable_unicode_list(Path).

-spec prepare(py_nif:context(), options()) -> {ok, #state{}} | {stop, term()}.
prepare(Handle, Options) ->
    Paths = [path(P) || P <- maps:get(sys_path, Options, [])],
    Modules = [py_request:name(M) || M <- maps:get(preload, Options, [])],
    Prepared =
        case {Paths, Modules} of
            {[], []} -> {ok, none};
            _ -> py_request:run(Handle, call, 'erlang._boot', prepare, [Paths, Modules], [], ?PRELOAD_MS, 0)
        end,
    Name = maps:get(name, Options, undefined),
    case Prepared of
        {ok, _} ->
            ok = configure_logging(Handle, Options),
            enter(Handle, Name);
        {error, Reason} -> refuse(Handle, {preload, Reason})
    end.

%% What py:configure_logging/1 has set goes for an interpreter of its own too.
-spec configure_logging(py_nif:context(), options()) -> ok.
configure_logging(Handle, #{isolation := interpreter}) ->
    case application:get_env(erlang_python, log_level) of
        {ok, Level} ->
            _ = py_request:run(Handle, call, 'erlang._logging', configure, [Level], [], ?PRELOAD_MS, 0),
            ok;
        undefined ->
            ok
    end;
configure_logging(_Handle, _Options) ->
    ok.

-spec path(file:name_all()) -> binary().
path(Path) when is_binary(Path) -> Path;
path(Path) -> unicode:characters_to_binary(Path, unicode, file:native_name_encoding()).

-spec enter(py_nif:context() | py_node:handle(), atom()) -> {ok, #state{}} | {stop, term()}.
enter(Handle, Name) ->
    case py_context_registry:add(Handle, Name) of
        ok -> {ok, #state{handle = Handle, name = Name}};
        {error, Reason} -> refuse(Handle, Reason)
    end.

-spec refuse(py_nif:context() | py_node:handle(), term()) -> {stop, term()}.
refuse(Handle, Reason) ->
    ok = close(Handle),
    {stop, Reason}.
