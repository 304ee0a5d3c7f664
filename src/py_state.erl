%% Shared state: one ETS table that Erlang and Python see. See docs/callbacks.md.
-module(py_state).

-export([init_table/0]).
-export([get/2]).
-export([set/2]).
-export([delete/1]).
-export([keys/0]).
-export([incr/2]).
-export([operation/2]).

-spec init_table() -> ok.
init_table() ->
    ?MODULE = ets:new(?MODULE, [named_table, public, {read_concurrency, true}, {write_concurrency, true}]),
    ok.

-spec get(term(), Default) -> term() | Default.
get(Key, Default) ->
    case ets:lookup(?MODULE, Key) of
        [{_, Value}] -> Value;
        [] -> Default
    end.

%% The bound is the application's environment `state_max_keys`, infinity by default.
-spec set(term(), term()) -> ok | {error, full}.
set(Key, Value) ->
    case may_insert(Key) of
        true ->
            true = ets:insert(?MODULE, {Key, Value}),
            ok;
        false ->
            {error, full}
    end.

-spec delete(term()) -> ok.
delete(Key) ->
    true = ets:delete(?MODULE, Key),
    ok.

-spec keys() -> [term()].
keys() ->
    ets:select(?MODULE, [{{'$1', '_'}, [], ['$1']}]).

%% Adds to a counter, which begins at 0; the new value. Atomic.
-spec incr(term(), integer()) -> integer() | {error, full}.
incr(Key, By) ->
    case may_insert(Key) of
        true -> ets:update_counter(?MODULE, Key, By, {Key, 0});
        false -> {error, full}
    end.

-spec may_insert(term()) -> boolean().
may_insert(Key) ->
    case application:get_env(erlang_python, state_max_keys, infinity) of
        infinity -> true;
        Max -> ets:info(?MODULE, size) < Max orelse ets:member(?MODULE, Key)
    end.

%% What Python asks, in a server's process.
-spec operation(binary(), [term()]) -> term().
operation(<<"state_get">>, [Key, Default]) ->
    get(Key, Default);
operation(<<"state_set">>, [Key, Value]) ->
    full(set(Key, Value));
operation(<<"state_delete">>, [Key]) ->
    delete(Key);
operation(<<"state_keys">>, []) ->
    keys();
operation(<<"state_incr">>, [Key, By]) ->
    full(incr(Key, By)).

-spec full(Result) -> Result when Result :: term().
full({error, full}) -> error(state_full);
full(Result) -> Result.
