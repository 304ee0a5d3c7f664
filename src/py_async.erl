%% Async calls: coroutines on a context's loop. The public face is `py`; see docs/async.md.
%%
%% An async call is a request like any other, so it has exactly one reply, {Ref, Result}. A gather is one request for all
%% of its calls: one crossing in, one reply out, one deadline.
-module(py_async).

-export([call/4]).
-export([await/2]).
-export([cancel/1]).
-export([gather/2]).
-export([gather/3]).
-export([map/5]).

-export_type([spec/0]).
-export_type([gather_options/0]).
-export_type([gather_result/0]).

-define(TRACKED, 2).
-define(BYTES, 4).
-define(LOOP, 8).
-define(GATHER, 16).
-define(TIMEOUT_MS, 30000).
-define(IS_ASYNC, <<
    "__import__('erlang._context_loop', fromlist=['is_async']).is_async(_target, _function, globals())"
>>).

-type spec() ::
    {py:name() | py:ref(), py:name(), [term()]}
    | {py:name() | py:ref(), py:name(), [term()], py:kwargs()}.
%% timeout: ms for all together, default 30000. on_error: stop cancels the others at the first failure, collect (default)
%% lets all end. concurrency: how many run at once, default infinity for gathers and twice the schedulers for maps.
-type gather_options() :: #{
    timeout => timeout(),
    on_error => stop | collect,
    concurrency => pos_integer() | infinity,
    binaries => auto | bytes
}.
-type gather_result() :: {ok, [term()]} | {error, {gather_failed, [{Index :: pos_integer(), py:error()}]} | py:error()}.

-spec call(py_request:handle(), term(), term(), {[term()], map() | []}) -> reference().
call(Handle, Module, Function, {Args, Kwargs}) ->
    Ref = make_ref(),
    case py_request:submit(Handle, Ref, call, Module, Function, Args, Kwargs, infinity, ?TRACKED bor ?LOOP) of
        ok -> ok;
        Error -> self() ! {Ref, Error}, ok
    end,
    case py_telemetry:hook() of
        undefined -> Ref;
        Hook -> py_telemetry:pending(Hook, Ref, #{operation => async_call, module => Module, function => Function})
    end.

-spec await(reference(), timeout()) -> py:result().
await(Ref, Timeout) ->
    py_telemetry:awaited(Ref, py_request:await(Ref, Timeout)).

%% The coroutine gets CancelledError where it waits; the reply is {error, cancelled} unless it had ended before.
-spec cancel(reference()) -> ok | {error, done}.
cancel(Ref) ->
    case py_request:cancel(Ref, false) of
        cancelled -> ok;
        done -> {error, done}
    end.

-spec gather(py_request:handle(), [spec()]) -> gather_result().
gather(Handle, Specs) ->
    gather(Handle, Specs, #{}).

-spec gather(py_request:handle(), [spec()], gather_options()) -> gather_result().
gather(Handle, Specs, Options) ->
    ok = check(Options),
    OnError = maps:get(on_error, Options, collect),
    Concurrency =
        case maps:get(concurrency, Options, infinity) of
            infinity -> 0;
            N -> N
        end,
    Timeout = maps:get(timeout, Options, ?TIMEOUT_MS),
    Flags = ?LOOP bor ?GATHER bor bytes(Options),
    Gather = fun() -> gather(Handle, Specs, OnError, Concurrency, Timeout, Flags) end,
    case py_telemetry:hook() of
        undefined ->
            Gather();
        Hook ->
            Meta = #{operation => gather, count => length(Specs)},
            py_telemetry:request(Hook, async_call, Meta, fun() -> {Gather(), none} end)
    end.

-spec gather(py_request:handle(), [spec()], collect | stop, non_neg_integer(), timeout(), integer()) ->
    gather_result().
gather(Handle, Specs, OnError, Concurrency, Timeout, Flags) ->
    Ref = make_ref(),
    case py_request:submit(Handle, Ref, call, OnError, Concurrency, Specs, [], Timeout, Flags) of
        ok ->
            receive
                {Ref, Reply} -> Reply
            end;
        Error ->
            Error
    end.

%% M:F(*Args) for each Args of the list. Coroutine functions run on the loop; others on the workers of the context, which
%% are threads: they run at once where they release the GIL.
-spec map(py_request:handle(), term(), term(), [[term()]], gather_options()) -> gather_result().
map(Handle, Module, Function, List, Options) ->
    ok = check(Options),
    Deadline = deadline(maps:get(timeout, Options, ?TIMEOUT_MS)),
    Concurrency = maps:get(concurrency, Options, 2 * erlang:system_info(schedulers)),
    Names = #{'_target' => Module, '_function' => Function},
    case py_request:run(Handle, eval, ?IS_ASYNC, eval, Names, [], left(Deadline), 0) of
        {ok, true} ->
            Specs = [{Module, Function, Args} || Args <- List],
            gather(Handle, Specs, Options#{concurrency => Concurrency, timeout => left(Deadline)});
        {ok, false} ->
            Map = #{
                handle => Handle,
                module => Module,
                function => Function,
                deadline => Deadline,
                on_error => maps:get(on_error, Options, collect),
                flags => ?TRACKED bor bytes(Options)
            },
            fill(Map, 1, List, Concurrency, #{}, [], []);
        Error ->
            Error
    end.

%% Running: Ref => Index, at most Free more.
-spec fill(map(), pos_integer(), [[term()]], non_neg_integer() | infinity, map(), list(), list()) -> gather_result().
fill(Map, Index, [Args | List], Free, Running, Done, Failed) when Free =/= 0 ->
    #{handle := Handle, module := Module, function := Function, deadline := Deadline, flags := Flags} = Map,
    Ref = make_ref(),
    case submit_call(Handle, Ref, Module, Function, Args, left(Deadline), Flags) of
        ok -> ok;
        Error -> self() ! {Ref, Error}, ok
    end,
    fill(Map, Index + 1, List, decrement(Free), Running#{Ref => Index}, Done, Failed);
fill(_Map, _Index, [], _Free, Running, Done, []) when map_size(Running) =:= 0 ->
    {ok, [Result || {_, Result} <- lists:keysort(1, Done)]};
fill(_Map, _Index, [], _Free, Running, _Done, Failed) when map_size(Running) =:= 0 ->
    {error, {gather_failed, lists:keysort(1, Failed)}};
fill(Map, Index, List, Free, Running, Done, Failed) ->
    receive
        {Ref, Reply} when is_map_key(Ref, Running) ->
            {Place, Rest} = maps:take(Ref, Running),
            case {Reply, Map} of
                {{ok, Result}, _} ->
                    fill(Map, Index, List, increment(Free), Rest, [{Place, Result} | Done], Failed);
                {{error, timeout}, _} ->
                    drop(Rest),
                    {error, timeout};
                {{error, Reason}, #{on_error := stop}} ->
                    drop(Rest),
                    {error, {gather_failed, [{Place, Reason}]}};
                {{error, Reason}, _} ->
                    fill(Map, Index, List, increment(Free), Rest, Done, [{Place, Reason} | Failed])
            end
    end.

%% Cancels what still runs, and takes what was sent before.
-spec drop(#{reference() => pos_integer()}) -> ok.
drop(Running) ->
    lists:foreach(
        fun(Ref) ->
            case py_request:cancel(Ref, true) of
                cancelled -> ok;
                done -> receive {Ref, _} -> ok end
            end
        end,
        maps:keys(Running)
    ).

-spec submit_call(py_request:handle(), reference(), term(), term(), [term()], timeout(), integer()) ->
    ok | {error, overloaded | noproc | stopped | cancelled | system_limit | {deadlock, non_neg_integer()}}.
submit_call(Handle, Ref, Module, Function, Args, Timeout, Flags) ->
    py_request:submit(Handle, Ref, call, Module, Function, Args, [], Timeout, Flags).

-spec check(gather_options()) -> ok.
check(Options) ->
    maps:foreach(
        fun
            (timeout, infinity) -> ok;
            (timeout, T) when is_integer(T), T >= 0 -> ok;
            (on_error, How) when How =:= stop; How =:= collect -> ok;
            (concurrency, infinity) -> ok;
            (concurrency, N) when is_integer(N), N > 0 -> ok;
            (binaries, How) when How =:= auto; How =:= bytes -> ok;
            (Key, Value) -> error({bad_option, {Key, Value}})
        end,
        Options
    ).

-spec bytes(gather_options()) -> integer().
bytes(#{binaries := bytes}) -> ?BYTES;
bytes(_) -> 0.

-spec decrement(pos_integer() | infinity) -> non_neg_integer() | infinity.
decrement(infinity) -> infinity;
decrement(N) -> N - 1.

-spec increment(non_neg_integer() | infinity) -> pos_integer() | infinity.
increment(infinity) -> infinity;
increment(N) -> N + 1.

-spec deadline(timeout()) -> integer() | infinity.
deadline(infinity) -> infinity;
deadline(Timeout) -> erlang:monotonic_time(millisecond) + Timeout.

-spec left(integer() | infinity) -> timeout().
left(infinity) -> infinity;
left(Deadline) -> max(0, Deadline - erlang:monotonic_time(millisecond)).
