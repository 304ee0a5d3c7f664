%% Supervises the contexts that py_context:start/1 makes. They are temporary: a context whose process died has lost its
%% namespace, so its users must know.
-module(py_context_sup).
-behaviour(supervisor).

-export([start_link/0]).
-export([start_context/1]).
-export([init/1]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec start_context(py_context:options() | py_context:later()) -> {ok, pid()} | {error, term()}.
start_context(Options) ->
    supervisor:start_child(?MODULE, [Options]).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    {ok, {#{strategy => simple_one_for_one}, [
        #{id => py_context, start => {py_context, start_link, []}, restart => temporary, shutdown => 5000}
    ]}}.
