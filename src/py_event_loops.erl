%% Starts an event process for each loop whose Python asks for one (c_src/poller_nif.c sends to this name), and ends them
%% with the application.
-module(py_event_loops).
-behaviour(gen_server).

-export([start_link/0]).
-export([init/1]).
-export([handle_call/3]).
-export([handle_cast/2]).
-export([handle_info/2]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

-spec init([]) -> {ok, []}.
init([]) ->
    process_flag(trap_exit, true),
    ok = py_callback_id:init(),
    {ok, []}.

-spec handle_call(term(), gen_server:from(), []) -> {reply, {error, unknown_call}, []}.
handle_call(_Call, _From, State) ->
    {reply, {error, unknown_call}, State}.

-spec handle_cast(term(), []) -> {noreply, []}.
handle_cast(_Cast, State) ->
    {noreply, State}.

%% An event process that dies is the loop's to notice: it asks for another one when it needs it.
-spec handle_info(term(), []) -> {noreply, []}.
handle_info({start, Port}, State) ->
    case py_event_loop_proc:start_link(Port) of
        {ok, _} -> ok;
        ignore -> ok %% the loop was closed before it came to that
    end,
    {noreply, State};
handle_info(_, State) ->
    {noreply, State}.
