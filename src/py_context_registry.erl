%% The table of contexts: who is there, its handle, its name. A name belongs to one living context. Rows of contexts that
%% died without a word are removed here; the table itself is the supervisor's and outlives this process.
-module(py_context_registry).
-behaviour(gen_server).

-export([start_link/0]).
-export([init_table/0]).
-export([add/2]).
-export([remove/1]).
-export([lookup/1]).
-export([find/1]).
-export([list/0]).
-export([default/0]).

-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-define(DEFAULT_KEY, ?MODULE). %% an atom: half the time of a tuple to look up

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% In the process that keeps the table.
-spec init_table() -> ok.
init_table() ->
    ?MODULE = ets:new(?MODULE, [named_table, public, {read_concurrency, true}]),
    ok.

%% Enters the calling process, unless another living context has that name.
-spec add(py_nif:context() | py_node:handle(), atom()) -> ok | {error, {already_started, pid()}}.
add(Handle, Name) ->
    gen_server:call(?MODULE, {add, self(), Handle, Name}, infinity).

-spec remove(pid()) -> ok.
remove(Context) ->
    true = ets:delete(?MODULE, Context),
    case default() of
        {Context, _} -> _ = persistent_term:erase(?DEFAULT_KEY);
        _ -> ok
    end,
    ok.

-spec lookup(pid()) -> {ok, py_nif:context() | py_node:handle(), atom()} | error.
lookup(Context) ->
    case ets:lookup(?MODULE, Context) of
        [{_, Handle, Name}] -> {ok, Handle, Name};
        [] -> error
    end.

%% The context of that name.
-spec find(atom()) -> pid() | undefined.
find(undefined) ->
    undefined;
find(Name) ->
    case [Pid || Pid <- ets:select(?MODULE, [{{'$1', '_', Name}, [], ['$1']}]), is_process_alive(Pid)] of
        [Pid | _] -> Pid;
        [] -> undefined
    end.

-spec list() -> [pid()].
list() ->
    ets:select(?MODULE, [{{'$1', '_', '_'}, [], ['$1']}]).

%% The default context, from where every call can have it at once.
-spec default() -> {pid(), py_nif:context() | py_node:handle()} | undefined.
default() ->
    persistent_term:get(?DEFAULT_KEY, undefined).

-spec init([]) -> {ok, no_state}.
init([]) ->
    _ = [erlang:monitor(process, Context) || Context <- list()],
    {ok, no_state}.

%% Hibernates, because the handle in the message would keep the context's memory until the next collection.
-spec handle_call({add, pid(), py_nif:context() | py_node:handle(), atom()}, gen_server:from(), no_state) ->
    {reply, term(), no_state, hibernate}.
handle_call({add, Context, Handle, Name}, _From, State) ->
    case find(Name) of
        undefined ->
            _ = erlang:monitor(process, Context),
            true = ets:insert(?MODULE, {Context, Handle, Name}),
            %% here, where the one that died is removed, or that could take the new one away
            ok = set_default(Name, {Context, Handle}),
            {reply, ok, State, hibernate};
        Other ->
            {reply, {error, {already_started, Other}}, State, hibernate}
    end.

-spec set_default(atom(), {pid(), py_nif:context() | py_node:handle()}) -> ok.
set_default(default, Default) -> persistent_term:put(?DEFAULT_KEY, Default);
set_default(_, _) -> ok.

-spec handle_cast(term(), no_state) -> {noreply, no_state}.
handle_cast(_Cast, State) ->
    {noreply, State}.

-spec handle_info(term(), no_state) -> {noreply, no_state}.
handle_info({'DOWN', _Monitor, process, Context, _Reason}, State) ->
    ok = remove(Context),
    {noreply, State};
handle_info(_Info, State) ->
    {noreply, State}.
