%% Events in the shape of `telemetry`, and W3C trace context. Nothing is measured or sent until attach/0,1.
%%
%% Events are [erlang_python, What, start | stop | exception], What being call, async_call, stream, callback or span. A
%% gather is one async_call. Measurements: monotonic_time and system_time at the start; duration, and for a call queue_time,
%% run_time and gil_time, at the end; all in native units. See docs/telemetry.md.
-module(py_telemetry).

-export([attach/0]).
-export([attach/1]).
-export([detach/0]).
-export([hook/0]).
-export([request/4]).
-export([pending/3]).
-export([awaited/2]).
-export([started/2]).
-export([span/3]).
-export([span_ended/3]).
-export([with_traceparent/2]).
-export([traceparent/0]).

-export_type([hook/0]).

-type event() :: [atom()].
-type hook() :: fun((event(), Measurements :: #{atom() => integer()}, Metadata :: #{atom() => term()}) -> term()).
-type times() :: {QueueNs :: non_neg_integer(), RunNs :: non_neg_integer(), GilNs :: non_neg_integer()} | none.

-define(KEY, ?MODULE).
-define(CHAIN, '$py_chain').

%% Sends every event to telemetry:execute/3.
-spec attach() -> ok | {error, no_telemetry}.
attach() ->
    Module = telemetry, % not a dependency
    case code:ensure_loaded(Module) of
        {module, Module} -> attach(fun(Event, Measurements, Metadata) -> Module:execute(Event, Measurements, Metadata) end);
        {error, _} -> {error, no_telemetry}
    end.

%% Sends every event to Hook, which is called in the process that calls Python.
-spec attach(hook()) -> ok.
attach(Hook) when is_function(Hook, 3) ->
    ok = persistent_term:put(?KEY, Hook),
    py_nif:timing(true).

-spec detach() -> ok.
detach() ->
    _ = persistent_term:erase(?KEY),
    py_nif:timing(false).

-spec hook() -> hook() | undefined.
hook() ->
    persistent_term:get(?KEY, undefined).

%% A request with its events: Request gives the reply and where its time went.
-spec request(hook(), call | async_call, #{atom() => term()}, fun(() -> {Reply, times()})) -> Reply.
request(Hook, What, Metadata, Request) ->
    Meta = traced(Metadata),
    Start = started(Hook, What, Meta),
    {Reply, Times} = Request(),
    ended(Hook, What, Meta, Start, Reply, Times),
    Reply.

%% An async call has been submitted; its end is when this process awaits it. What was submitted is kept in the process
%% dictionary until then.
-spec pending(hook(), reference(), #{atom() => term()}) -> reference().
pending(Hook, Ref, Metadata) ->
    Meta = traced(Metadata),
    _ = put({?MODULE, Ref}, {started(Hook, async_call, Meta), Meta}),
    Ref.

-spec awaited(reference(), Reply) -> Reply.
awaited(Ref, Reply) ->
    case hook() of
        undefined ->
            Reply;
        Hook ->
            case erase({?MODULE, Ref}) of
                {Start, Meta} -> ended(Hook, async_call, Meta, Start, Reply, none);
                undefined -> ok
            end,
            Reply
    end.

%% A stream has been started; its end is its last message.
-spec started(stream, #{atom() => term()}) -> ok.
started(What, Metadata) ->
    case hook() of
        undefined ->
            ok;
        Hook ->
            _ = started(Hook, What, traced(Metadata)),
            ok
    end.

-spec ended(hook(), atom(), #{atom() => term()}, integer(), term(), times()) -> term().
ended(Hook, What, Meta, Start, Reply, Times) ->
    Measurements = maps:merge(#{duration => erlang:monotonic_time() - Start}, times(Times)),
    case Reply of
        {error, Error} -> Hook([erlang_python, What, exception], Measurements, Meta#{kind => error, reason => Error});
        _ -> Hook([erlang_python, What, stop], Measurements, Meta)
    end.

%% Runs Fun between the events of What, if anyone listens.
-spec span(atom(), #{atom() => term()}, fun(() -> Result)) -> Result.
span(What, Metadata, Fun) ->
    case hook() of
        undefined -> Fun();
        Hook -> span(Hook, What, traced(Metadata), Fun)
    end.

-spec span(hook(), atom(), #{atom() => term()}, fun(() -> Result)) -> Result.
span(Hook, What, Meta, Fun) ->
    Start = started(Hook, What, Meta),
    try Fun() of
        Result ->
            Hook([erlang_python, What, stop], #{duration => erlang:monotonic_time() - Start}, Meta),
            Result
    catch
        Class:Reason:Stack ->
            Failed = Meta#{kind => Class, reason => Reason, stacktrace => Stack},
            Hook([erlang_python, What, exception], #{duration => erlang:monotonic_time() - Start}, Failed),
            erlang:raise(Class, Reason, Stack)
    end.

%% What erlang.Span sends when it ends.
-spec span_ended(binary(), non_neg_integer(), #{binary() => term()}) -> none.
span_ended(Name, DurationNs, Map) ->
    case hook() of
        undefined ->
            none;
        Hook ->
            Measurements = #{duration => erlang:convert_time_unit(DurationNs, nanosecond, native)},
            Meta = #{
                name => Name,
                traceparent => maps:get(<<"traceparent">>, Map),
                parent => maps:get(<<"parent">>, Map),
                attributes => maps:get(<<"attributes">>, Map)
            },
            case Map of
                #{<<"error">> := none} ->
                    Hook([erlang_python, span, stop], Measurements, Meta);
                #{<<"error">> := Error} ->
                    Hook([erlang_python, span, exception], Measurements, Meta#{kind => error, reason => Error})
            end,
            none
    end.

%% Runs Fun with this traceparent: the Python that it calls sees it, and the Erlang that that Python calls.
-spec with_traceparent(binary(), fun(() -> Result)) -> Result.
with_traceparent(Traceparent, Fun) when is_binary(Traceparent) ->
    Before = get(?CHAIN),
    _ = put(?CHAIN, with_trace(Before, Traceparent)),
    try
        Fun()
    after
        case Before of
            undefined -> erase(?CHAIN);
            _ -> put(?CHAIN, Before)
        end
    end.

%% The traceparent of this process, set by with_traceparent/2 or brought along by the Python that called.
-spec traceparent() -> binary() | undefined.
traceparent() ->
    case get(?CHAIN) of
        {py_chain, _, _, _, Trace, _} when is_binary(Trace) -> Trace;
        _ -> undefined
    end.

-spec with_trace(tuple() | undefined, binary()) -> tuple().
with_trace(undefined, Trace) -> {py_chain, 0, 0, 0, Trace, []};
with_trace(Chain, Trace) -> setelement(5, Chain, Trace).

-spec started(hook(), atom(), #{atom() => term()}) -> integer().
started(Hook, What, Meta) ->
    Start = erlang:monotonic_time(),
    Hook([erlang_python, What, start], #{monotonic_time => Start, system_time => erlang:system_time()}, Meta),
    Start.

-spec traced(#{atom() => term()}) -> #{atom() => term()}.
traced(Metadata) ->
    case traceparent() of
        undefined -> Metadata;
        Traceparent -> Metadata#{traceparent => Traceparent}
    end.

-spec times(times()) -> #{atom() => integer()}.
times(none) ->
    #{};
times({QueueNs, RunNs, GilNs}) ->
    #{queue_time => native(QueueNs), run_time => native(RunNs), gil_time => native(GilNs)}.

-spec native(non_neg_integer()) -> integer().
native(Ns) ->
    erlang:convert_time_unit(Ns, nanosecond, native).
