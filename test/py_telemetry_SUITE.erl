%% Events, traces, the slow call detector and py:top.
-module(py_telemetry_SUITE).

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([end_per_testcase/2]).
-export([log/2]).

-export([calls_have_start_and_stop/1]).
-export([a_failed_call_is_an_exception/1]).
-export([times_add_up/1]).
-export([async_calls_and_streams_have_events/1]).
-export([callbacks_have_events/1]).
-export([nothing_is_sent_when_detached/1]).
-export([a_traceparent_goes_there_and_back/1]).
-export([spans_nest_and_carry_their_traceparent/1]).
-export([a_span_that_fails_says_so/1]).
-export([decorated_functions_are_spans/1]).
-export([without_telemetry_attach_says_so/1]).
-export([slow_calls_are_logged_once_with_their_line/1]).
-export([blocked_loops_are_logged_once_with_their_line/1]).
-export([top_shows_what_runs/1]).

-define(TRACE, <<"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01">>).

-spec suite() -> [{timetrap, {minutes, pos_integer()}}].
suite() ->
    [{timetrap, {minutes, 2}}].

-spec all() -> [atom()].
all() ->
    py_test_lib:cases(?MODULE).

-spec init_per_suite([{atom(), term()}]) -> [{atom(), term()}].
init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    ok = logger:set_primary_config(level, notice), % start/1 made it emergency
    Started.

-spec end_per_suite([{atom(), term()}]) -> ok.
end_per_suite(Config) ->
    py_test_lib:stop(Config).

-spec end_per_testcase(atom(), term()) -> ok.
end_per_testcase(_Case, _Config) ->
    py_telemetry:detach().

attach() ->
    Test = self(),
    ok = py_telemetry:attach(fun(Event, Measurements, Meta) -> Test ! {event, Event, Measurements, Meta} end).

event(Event) ->
    receive
        {event, Event, Measurements, Meta} -> {Measurements, Meta}
    after 60000 -> ct:fail({no_event, Event})
    end.

no_event() ->
    receive
        {event, _, _, _} = Event -> ct:fail(Event)
    after 0 -> ok
    end.

calls_have_start_and_stop(_Config) ->
    attach(),
    {ok, 4.0} = py:call(math, sqrt, [16.0]),
    {#{monotonic_time := _, system_time := _}, #{operation := call, module := math, function := sqrt}} =
        event([erlang_python, call, start]),
    {#{duration := D, queue_time := Q, run_time := R, gil_time := G}, #{module := math}} =
        event([erlang_python, call, stop]),
    true = lists:all(fun is_integer/1, [D, Q, R, G]),
    {ok, 2} = py:eval(<<"1 + 1">>),
    {_, #{operation := eval}} = event([erlang_python, call, stop]).

a_failed_call_is_an_exception(_Config) ->
    attach(),
    {error, _} = py:call(math, sqrt, [-1.0]),
    {#{run_time := _}, #{kind := error, reason := {'ValueError', _}}} = event([erlang_python, call, exception]),
    ok = py:exec(<<"import threading\nheld = threading.Lock()\nheld.acquire()">>),
    {timeout, abandoned} = py_test_lib:abandoning(fun() ->
        py_test_lib:begun(
            fun(Ms) ->
                {error, Why} = py:eval(<<"held.acquire()">>, #{}, Ms),
                {#{duration := _}, #{reason := Why}} = event([erlang_python, call, exception]),
                Why
            end,
            timeout
        )
    end),
    ok = py:exec(<<"held.release()">>).

times_add_up(_Config) ->
    attach(),
    {ok, none} = py:call(time, sleep, [0.05]),
    {#{duration := Duration, queue_time := Queue, run_time := Run, gil_time := Gil}, _} =
        event([erlang_python, call, stop]),
    true = Run >= erlang:convert_time_unit(50, millisecond, native),
    true = Queue + Gil + Run =< Duration.

async_calls_and_streams_have_events(_Config) ->
    ok = py:exec(<<"async def later(x): return 1 // x\ndef numbers(n): yield from range(n)">>),
    attach(),
    Ref = py:async_call('__main__', later, [1]),
    {#{system_time := _}, #{module := '__main__', function := later}} = event([erlang_python, async_call, start]),
    {ok, 1} = py:async_await(Ref),
    {#{duration := _}, #{function := later}} = event([erlang_python, async_call, stop]),
    {error, {'ZeroDivisionError', _}} = py:async_await(py:async_call('__main__', later, [0])),
    {_, #{reason := {'ZeroDivisionError', _}}} = event([erlang_python, async_call, exception]),
    {ok, [1, 0]} = py:async_gather([{'__main__', later, [1]}, {'__main__', later, [2]}]),
    {_, #{operation := gather, count := 2}} = event([erlang_python, async_call, stop]),
    {ok, Stream} = py:stream_start('__main__', numbers, [1]),
    {_, #{function := numbers}} = event([erlang_python, stream, start]),
    receive
        {py_stream, Stream, done} -> ok
    end,
    [] = [Key || {{py_telemetry, _} = Key, _} <- get()].

callbacks_have_events(_Config) ->
    ok = py:register_function(double, fun(N) -> 2 * N end),
    attach(),
    {ok, 8} = py:eval(<<"__import__('erlang').call('double', 4)">>),
    {_, #{target := {<<"double">>}}} = event([erlang_python, callback, start]),
    {#{duration := _}, _} = event([erlang_python, callback, stop]),
    ok = py:unregister_function(double).

nothing_is_sent_when_detached(_Config) ->
    attach(),
    ok = py_telemetry:detach(),
    {ok, 4.0} = py:call(math, sqrt, [16.0]),
    ok = py:exec(<<"import erlang\nwith erlang.Span('quiet'): pass">>),
    no_event().

a_traceparent_goes_there_and_back(_Config) ->
    Test = self(),
    ok = py:register_function(where, fun() -> Test ! {trace, py_telemetry:traceparent()}, none end),
    undefined = py_telemetry:traceparent(),
    {ok, ?TRACE} = py_telemetry:with_traceparent(?TRACE, fun() ->
        py:eval(<<"(__import__('erlang').call('where'), __import__('erlang').traceparent())[1]">>)
    end),
    receive
        {trace, ?TRACE} -> ok
    end,
    undefined = py_telemetry:traceparent(),
    {ok, none} = py:eval(<<"__import__('erlang').traceparent()">>),
    ok = py:unregister_function(where).

spans_nest_and_carry_their_traceparent(_Config) ->
    attach(),
    Test = self(),
    ok = py:register_function(where, fun() -> Test ! {trace, py_telemetry:traceparent()}, none end),
    ok = py_telemetry:with_traceparent(?TRACE, fun() ->
        py:exec(<<
            "import erlang\n"
            "with erlang.Span('outer', rows=3):\n"
            "    with erlang.Span('inner'):\n"
            "        erlang.call('where')\n"
        >>)
    end),
    Inside =
        receive
            {trace, T} -> T
        end,
    {#{duration := _}, #{name := <<"inner">>, traceparent := Inside, parent := Outer}} =
        event([erlang_python, span, stop]),
    {_, #{name := <<"outer">>, traceparent := Outer, parent := ?TRACE, attributes := #{<<"rows">> := 3}}} =
        event([erlang_python, span, stop]),
    <<"00-0af7651916cd43dd8448eb211c80319c-", _:16/binary, "-01">> = Inside,
    true = Inside =/= Outer,
    ok = py:unregister_function(where).

a_span_that_fails_says_so(_Config) ->
    attach(),
    {error, {'KeyError', _}} = py:exec(<<"import erlang\nwith erlang.Span('bad'): {}['x']">>),
    {_, #{name := <<"bad">>, reason := <<"KeyError: 'x'">>}} = event([erlang_python, span, exception]).

decorated_functions_are_spans(_Config) ->
    ok = py:exec(<<
        "import asyncio, erlang\n"
        "@erlang.trace\n"
        "def plain(): return erlang.traceparent()\n"
        "@erlang.trace(name='named')\n"
        "async def later():\n"
        "    await asyncio.sleep(0)\n"
        "    return erlang.traceparent()\n"
    >>),
    attach(),
    {ok, Plain} = py:call('__main__', plain, []),
    {_, #{name := <<"plain">>, traceparent := Plain}} = event([erlang_python, span, stop]),
    {ok, Named} = py:eval(<<"asyncio.run(later())">>),
    {_, #{name := <<"named">>, traceparent := Named}} = event([erlang_python, span, stop]).

without_telemetry_attach_says_so(_Config) ->
    {error, nofile} = code:ensure_loaded(telemetry),
    {error, no_telemetry} = py_telemetry:attach().

%% ---- slow calls ----

-spec log(logger:log_event(), map()) -> ok.
log(#{msg := {Format, Args}, level := Level}, #{config := Test}) ->
    Test ! {logged, Level, unicode:characters_to_binary(io_lib:format(Format, Args))},
    ok;
log(_, _) ->
    ok.

slow_calls_are_logged_once_with_their_line(_Config) ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => all, config => self()}),
    ok = py:exec(<<"import threading\nfree = threading.Event()\ndef stuck(): free.wait()">>),
    ok = py_watch:slow_call_ms(50),
    Ref = py:spawn_call('__main__', stuck, []),
    {_, _} = binary:match(warning(<<"'__main__':stuck">>), <<"threading.py:">>),
    %% Another slow one is found while the first goes on, which is not told again.
    Second = py:spawn_call('__main__', stuck, []),
    _ = warning(<<"'__main__':stuck">>),
    ok = py_watch:slow_call_ms(infinity),
    ok = py:exec(<<"free.set()">>),
    {ok, none} = py:await(Ref),
    {ok, none} = py:await(Second),
    ok = logger:remove_handler(?MODULE),
    no_warning(<<"'__main__':stuck">>).

blocked_loops_are_logged_once_with_their_line(_Config) ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => all, config => self()}),
    ok = py:exec(<<
        "import asyncio, threading\n"
        "free = threading.Event()\n"
        "async def fine(): await asyncio.sleep(0.3)\n"
        "async def block(): free.wait()\n"
    >>),
    ok = py_watch:blocked_loop_ms(50),
    {ok, none} = py:async_await(py:async_call('__main__', fine, [])),
    Ref = py:async_call('__main__', block, []),
    {_, _} = binary:match(warning(<<"threading.py:">>), <<"an event loop has been blocked">>),
    {ok, none} = py:call(time, sleep, [0.3]),
    ok = py:exec(<<"free.set()">>),
    {ok, none} = py:async_await(Ref),
    ok = py_watch:blocked_loop_ms(infinity),
    ok = logger:remove_handler(?MODULE),
    no_warning(<<"threading.py:">>).

%% The next warning in which that stands. On a busy machine others may come: there something is slow, a loop waits.
warning(Part) ->
    receive
        {logged, warning, Text} ->
            case binary:match(Text, Part) of
                nomatch -> warning(Part);
                _ -> Text
            end
    after 60000 -> ct:fail({no_warning, Part, sys:get_state(py_watch)})
    end.

no_warning(Part) ->
    receive
        {logged, _, Text} ->
            nomatch = binary:match(Text, Part),
            no_warning(Part)
    after 0 -> ok
    end.

%% ---- top ----

top_shows_what_runs(_Config) ->
    ok = py:exec(<<"import threading\nfree = threading.Event()\ndef busy_here(): free.wait()">>),
    Ref = py:spawn_call('__main__', busy_here, []),
    py_test_lib:running({py:context(), 1}),
    Text = with_output(fun() -> ok = py:top(#{count => 2, interval => 20, samples => 2}) end),
    ok = py:exec(<<"free.set()">>),
    {ok, none} = py:await(Ref),
    2 = length(binary:matches(Text, <<"busiest:  '__main__':busy_here 100%">>)),
    {_, _} = binary:match(Text, <<"default">>),
    2 = length(binary:matches(Text, <<" ms  '__main__':busy_here for ">>)).

with_output(Fun) ->
    Device = py_test_lib:device(),
    Before = group_leader(),
    group_leader(Device, self()),
    try
        Fun()
    after
        group_leader(Before, self())
    end,
    py_test_lib:written(Device).
