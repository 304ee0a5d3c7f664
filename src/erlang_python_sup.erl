%% The top: the table of contexts, contexts that users start, and the default context.
-module(erlang_python_sup).
-behaviour(supervisor).

-export([start_link/0]).
-export([init/1]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    ok = py_context_registry:init_table(),
    ok = py_node:init_table(),
    ok = py_callback:init_table(),
    ok = py_state:init_table(),
    Default = maps:merge(
        #{name => default, threads => 1 + 4 * erlang:system_info(schedulers), shares_main => true},
        application:get_env(erlang_python, default_context, #{})
    ),
    {ok, {#{strategy => one_for_one, intensity => 10, period => 10}, py_callback:children() ++ [
        #{id => py_event_loops, start => {py_event_loops, start_link, []}},
        #{id => py_context_registry, start => {py_context_registry, start_link, []}},
        #{id => py_watch, start => {py_watch, start_link, []}},
        #{id => py_context_sup, start => {py_context_sup, start_link, []}, type => supervisor},
        #{id => default_context, start => {py_context, start_link, [Default]}, shutdown => 5000}
    ]}}.
