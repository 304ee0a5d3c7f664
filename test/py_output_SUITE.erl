%% Python's standard streams and logging on the Erlang side.
-module(py_output_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([log/2]).

-export([print_goes_to_the_group_leader_of_the_caller/1]).
-export([lines_of_concurrent_requests_do_not_mix/1]).
-export([an_open_line_is_written_when_the_request_ends/1]).
-export([output_comes_before_the_result/1]).
-export([stderr_goes_to_standard_error/1]).
-export([a_dead_group_leader_loses_no_call/1]).
-export([a_slow_device_slows_python_down/1]).
-export([input_reads_the_group_leader/1]).
-export([surrogates_and_nuls_are_written/1]).
-export([binary_layer_works/1]).
-export([records_carry_level_place_and_metadata/1]).
-export([records_below_the_level_do_not_cross/1]).
-export([warnings_and_lost_exceptions_are_logged/1]).

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

%% ---- devices ----

%% Runs Fun in a process whose group leader records what is written and answers reads; gives the text.
with_device(Fun) ->
    with_device(Fun, []).

with_device(Fun, Input) ->
    Device = py_test_lib:device(Input),
    {_, Monitor} = spawn_monitor(fun() ->
        group_leader(Device, self()),
        Fun()
    end),
    receive
        {'DOWN', Monitor, process, _, Why} -> normal = Why
    end,
    py_test_lib:written(Device).

%% ---- output ----

print_goes_to_the_group_leader_of_the_caller(_Config) ->
    <<"one 2\n">> = with_device(fun() -> ok = py:exec(<<"print('one', 2)">>) end),
    <<"other\n">> = with_device(fun() -> {ok, none} = py:call(builtins, print, [<<"other">>]) end).

lines_of_concurrent_requests_do_not_mix(_Config) ->
    Text = with_device(fun() ->
        py_test_lib:parallel(40, fun(N) ->
            ok = py:exec(iolist_to_binary(io_lib:format("for i in range(20): print(~b, i, sep='-', end=';\\n')", [N])))
        end)
    end),
    Lines = binary:split(Text, <<"\n">>, [global, trim]),
    800 = length(Lines),
    Expected = [iolist_to_binary(io_lib:format("~b-~b;", [N, I])) || N <- lists:seq(1, 40), I <- lists:seq(0, 19)],
    Expected = lists:sort(fun in_order/2, Lines).

in_order(A, B) ->
    numbers(A) =< numbers(B).

numbers(Line) ->
    [binary_to_integer(N) || N <- re:split(Line, "[-;]", [trim])].

an_open_line_is_written_when_the_request_ends(_Config) ->
    <<"open">> = with_device(fun() -> ok = py:exec(<<"print('open', end='')">>) end),
    <<"a\nb">> = with_device(fun() -> ok = py:exec(<<"import sys\nsys.stdout.write('a\\nb')">>) end),
    <<"flushed">> = with_device(fun() ->
        ok = py:exec(<<"sys.stdout.write('flu'); sys.stdout.write('shed'); sys.stdout.flush()">>)
    end).

output_comes_before_the_result(_Config) ->
    <<"python\nerlang\n">> = with_device(fun() ->
        ok = py:exec(<<"print('python')">>),
        io:put_chars("erlang\n")
    end).

stderr_goes_to_standard_error(_Config) ->
    Real = whereis(standard_error),
    true = unregister(standard_error),
    Device = py_test_lib:device(),
    true = register(standard_error, Device),
    try
        ok = py:exec(<<"import sys\nprint('wrong', file=sys.stderr)">>)
    after
        unregister(standard_error),
        register(standard_error, Real)
    end,
    <<"wrong\n">> = py_test_lib:written(Device).

a_dead_group_leader_loses_no_call(_Config) ->
    Test = self(),
    {_, Monitor} = spawn_monitor(fun() ->
        {Dead, DeadMonitor} = spawn_monitor(fun() -> ok end),
        receive
            {'DOWN', DeadMonitor, process, Dead, _} -> ok
        end,
        group_leader(Dead, self()),
        Test ! {result, py:eval(<<"print('to the node instead') or 7">>)}
    end),
    receive
        {result, Result} -> {ok, 7} = Result
    end,
    receive
        {'DOWN', Monitor, process, _, normal} -> ok
    end.

a_slow_device_slows_python_down(_Config) ->
    Test = self(),
    Device = spawn_link(fun() -> hand_over(Test) end),
    Caller = spawn_link(fun() ->
        group_leader(Device, self()),
        receive
            go -> ok
        end,
        Test ! {result, py:exec(<<"for i in range(3): print(i)">>, infinity)}
    end),
    Caller ! go,
    [
        receive
            {put, Answer, Chars} ->
                %% Nothing more comes until this one is answered.
                0 = message_count(Device),
                Expected = integer_to_binary(N),
                <<Expected:1/binary, "\n">> = Chars,
                Answer()
        end
     || N <- [0, 1, 2]
    ],
    receive
        {result, Result} -> ok = Result
    end.

hand_over(Test) ->
    receive
        {io_request, From, Ref, {put_chars, unicode, Chars}} ->
            Self = self(),
            Test !
                {put,
                    fun() ->
                        From ! {io_reply, Ref, ok},
                        Self ! answered
                    end,
                    Chars},
            receive
                answered -> hand_over(Test)
            end
    end.

message_count(Pid) ->
    {message_queue_len, Count} = process_info(Pid, message_queue_len),
    Count.

input_reads_the_group_leader(_Config) ->
    <<"name? ">> = with_device(
        fun() ->
            {ok, <<"Ada">>} = py:eval(<<"input('name? ')">>),
            {ok, [<<"two\n">>, <<"three\n">>]} = py:eval(<<"list(__import__('sys').stdin)">>),
            {error, {'EOFError', _}} = py:eval(<<"input()">>)
        end,
        ["Ada\n", "two\n", "three\n"]
    ).

surrogates_and_nuls_are_written(_Config) ->
    <<"a\\udc80", 0, "b\n">> = with_device(fun() -> ok = py:exec(<<"print('a\\udc80\\0b')">>) end).

binary_layer_works(_Config) ->
    <<"raw\n">> = with_device(fun() -> ok = py:exec(<<"import sys\nsys.stdout.buffer.write(b'raw\\n')">>) end),
    {error, {'UnsupportedOperation', _}} = py:eval(<<"__import__('sys').stdout.fileno()">>).

%% ---- logging ----

-spec log(logger:log_event(), map()) -> ok.
log(Event, #{config := Test}) ->
    Test ! {logged, Event},
    ok.

with_events(Fun) ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{level => all, config => self()}),
    try
        Fun(),
        events()
    after
        logger:remove_handler(?MODULE)
    end.

%% All that has come: records are logged before the request that made them is answered.
events() ->
    receive
        {logged, Event} -> [Event | events()]
    after 0 -> []
    end.

text(#{msg := {Format, Args}}) -> unicode:characters_to_binary(io_lib:format(Format, Args)).

records_carry_level_place_and_metadata(_Config) ->
    Self = self(),
    [Warning, Error] = with_events(fun() ->
        ok = py:exec(<<
            "import logging\n"
            "def f():\n"
            "    logging.getLogger('shop').warning('%d left', 3, extra={'item': 'tea'})\n"
            "f()\n"
            "try: 1/0\n"
            "except ZeroDivisionError: logging.getLogger('shop').exception('failed')\n"
        >>)
    end),
    #{level := warning, meta := #{python_logger := <<"shop">>, line := 3, python_function := <<"f">>, pid := Self}} =
        Warning,
    #{meta := #{file := <<"<exec>">>, extra := #{<<"item">> := <<"'tea'">>}, time := Time}} = Warning,
    true = abs(erlang:system_time(microsecond) - Time) < 60_000_000,
    <<"3 left">> = text(Warning),
    #{level := error} = Error,
    <<"failed\nTraceback (most recent call last):\n", _/binary>> = text(Error).

records_below_the_level_do_not_cross(_Config) ->
    Loud = <<"import logging\nfor f in (logging.debug, logging.info, logging.warning, logging.error): f('x')">>,
    Levels = fun() -> [maps:get(level, E) || E <- with_events(fun() -> ok = py:exec(Loud) end)] end,
    ok = py:configure_logging(#{level => error}),
    [error] = Levels(),
    ok = py:configure_logging(#{level => all}),
    ok = logger:set_primary_config(level, all),
    [debug, info, warning, error] = Levels(),
    ok = logger:set_primary_config(level, notice),
    ok = py:configure_logging(),
    [warning, error] = Levels(),
    ?assertError({bad_option, {level, loud}}, py:configure_logging(#{level => loud})),
    ok = py:configure_logging(#{level => warning}).

warnings_and_lost_exceptions_are_logged(_Config) ->
    Events = with_events(fun() ->
        ok = py:exec(<<
            "import warnings, threading, logging\n"
            "warnings.simplefilter('always')\n"
            "warnings.warn('old way')\n"
            "class Bad:\n"
            "    def __del__(self): raise ValueError('in del')\n"
            "Bad()\n"
            "t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()\n"
        >>)
    end),
    [<<"py.warnings">>, <<"erlang.unraisable">>, <<"erlang.thread">>] =
        [Name || #{meta := #{python_logger := Name}} <- Events],
    [Warned, Unraisable, Thread] = [text(E) || E <- Events],
    {_, _} = binary:match(Warned, <<"old way">>),
    {_, _} = binary:match(Unraisable, <<"ValueError: in del">>),
    {_, _} = binary:match(Thread, <<"ZeroDivisionError">>).
