%% What a user, an attacker or an accident does to the border: each ends with an answer, and the VM stays up.
-module(py_abuse_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 3}}].

all() ->
    [
        ten_thousand_callers_at_once,
        callers_killed_by_the_thousand,
        context_killed_while_calls_run,
        binary_of_100_mb,
        list_of_a_million,
        depth_of_100000_into_python,
        depth_of_100000_out_of_python,
        integer_of_100000_digits,
        dict_that_changes_while_converted,
        atoms_by_the_million,
        module_import_errors,
        system_exit_is_an_error,
        exception_whose_text_raises,
        exception_group_and_chain,
        chain_that_meets_itself,
        recursion_error,
        recursion_in_c,
        memory_error,
        result_that_cannot_be_converted,
        result_that_is_huge_is_dropped_with_its_caller,
        context_stopped_from_many_processes,
        casts_without_end,
        spawned_calls_never_awaited,
        source_that_is_huge
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages(),
    {ok, 4.0} = py:call(math, sqrt, [16]).

ten_thousand_callers_at_once(_) ->
    Results = py_test_lib:parallel(10000, fun(I) -> [py:call(builtins, abs, [-I * K]) || K <- [1, 2, 3]] end),
    ?assertEqual([[{ok, I}, {ok, 2 * I}, {ok, 3 * I}] || I <- lists:seq(1, 10000)], Results).

%% At any moment of their calls; a third of them in Python code that would never end.
callers_killed_by_the_thousand(_) ->
    C = py_test_lib:context(#{threads => 4}),
    ok = py:exec(C, <<"def forever():\n    while True: pass\ndef ident(x): return x">>),
    Pids = [
        spawn(fun() ->
            case I rem 3 of
                0 -> py:call(C, '__main__', forever, []);
                1 -> [{ok, K} = py:call(C, '__main__', ident, [K]) || K <- lists:seq(1, 1000)];
                2 -> [py:spawn_call(C, '__main__', ident, [lists:seq(1, 100)]) || _ <- lists:seq(1, 100)]
            end
        end)
     || I <- lists:seq(1, 3000)
    ],
    [
        begin
            exit(Pid, kill),
            I rem 100 =:= 0 andalso erlang:yield()
        end
     || {I, Pid} <- lists:zip(lists:seq(1, 3000), Pids)
    ],
    %% the queue may still be full of what the dead have asked
    py_test_lib:eventually(fun() -> {ok, 5} = py:call(C, '__main__', ident, [5], #{}, infinity) end),
    py_test_lib:eventually(fun() -> #{requests := 0} = py_nif:counters() end),
    py_context:stop(C).

context_killed_while_calls_run(_) ->
    [
        begin
            C = py_test_lib:context(#{threads => 3}),
            Callers = [
                spawn_monitor(fun() -> exit({last, calls(C, 1)}) end)
             || _ <- lists:seq(1, 20)
            ],
            {ok, _} = py:call(C, builtins, abs, [1]),
            exit(C, kill),
            [
                receive
                    {'DOWN', Monitor, process, Pid, {last, Last}} ->
                        ?assert(lists:member(Last, [{error, stopped}, {error, noproc}]), Last)
                end
             || {Pid, Monitor} <- Callers
            ]
        end
     || _ <- lists:seq(1, 20)
    ].

calls(C, N) ->
    case py:call(C, builtins, abs, [-N]) of
        {ok, N} -> calls(C, N + 1);
        Error -> Error
    end.

binary_of_100_mb(_) ->
    Size = 100 * 1024 * 1024,
    Bin = binary:copy(<<255, 0, 1, 2>>, Size div 4),
    {ok, Size} = py:call(builtins, len, [Bin]),
    {ok, Back} = py:eval(<<"x">>, #{x => Bin}),
    true = Bin =:= Back,
    {ok, Made} = py:eval(<<"b'\\xff\\0\\1\\2' * (n // 4)">>, #{n => Size}),
    true = Bin =:= Made.

list_of_a_million(_) ->
    List = lists:seq(1, 1000000),
    {ok, List} = py:call(builtins, list, [List]),
    {ok, 500000500000} = py:call(builtins, sum, [List]).

%% A clean error, not a broken stack; in lists, tuples, maps and arguments.
depth_of_100000_into_python(_) ->
    Nest = fun(Wrap) -> lists:foldl(fun(_, Inner) -> Wrap(Inner) end, [], lists:seq(1, 100000)) end,
    [
        ?assertMatch({error, {'RecursionError', _}}, py:call(builtins, id, [Nest(Wrap)]))
     || Wrap <- [
            fun(T) -> [T] end, fun(T) -> {T} end, fun(T) -> [T | 1] end, fun(T) -> #{1 => T} end, fun(T) -> #{T => 1} end
        ]
    ],
    {error, {'RecursionError', _}} = py:eval(<<"x">>, #{x => Nest(fun(T) -> [T] end)}).

depth_of_100000_out_of_python(_) ->
    ok = py:exec(<<
        "def nested(wrap, n=100000):\n"
        "    x = None\n"
        "    for _ in range(n): x = wrap(x)\n"
        "    return x\n"
        "wraps = [lambda x: [x], lambda x: (x,), lambda x: {1: x}]\n"
    >>),
    [
        ?assertMatch({error, {'RecursionError', _}}, py:eval(<<"nested(wraps[i])">>, #{i => I}))
     || I <- [0, 1, 2]
    ],
    {error, {'ValueError', #{message := M}}} = py:eval(<<"(lambda l: (l.append(l), l)[1])([])">>),
    ?assertMatch({_, _}, binary:match(M, <<"contains itself">>)).

integer_of_100000_digits(_) ->
    N = power(10, 100000),
    [
        begin
            {ok, I} = py:call(operator, pos, [I]),
            {ok, Minus} = py:call(operator, neg, [I]),
            ?assertEqual(-I, Minus)
        end
     || I <- [N, -N, N + 1, 1 bsl 64, -(1 bsl 64), (1 bsl 63) - 1, -(1 bsl 63)]
    ],
    {ok, N} = py:eval(<<"10 ** 100000">>).

power(B, E) -> power(B, E, 1).
power(_, 0, A) -> A;
power(B, E, A) when E rem 2 =:= 1 -> power(B * B, E div 2, A * B);
power(B, E, A) -> power(B * B, E div 2, A).

%% An error or a snapshot, with a hundred other threads' worth of changes meanwhile.
dict_that_changes_while_converted(_) ->
    ok = py:exec(<<
        "import threading\n"
        "from collections.abc import Mapping\n"
        "changing = {i: [i] for i in range(2000)}\n"
        "change_on = True\n"
        "def change():\n"
        "    i = 2000\n"
        "    while change_on:\n"
        "        changing[i] = [i]\n"
        "        changing.pop(i - 2000, None)\n"
        "        i += 1\n"
        "changer = threading.Thread(target=change)\n"
        "changer.start()\n"
        "class Grows(Mapping):\n"
        "    def __init__(self): self.d = {i: i for i in range(100)}\n"
        "    def __len__(self): return len(self.d)\n"
        "    def __iter__(self): return iter(self.d)\n"
        "    def __getitem__(self, k):\n"
        "        self.d[k + 1000] = k\n"
        "        return k\n"
    >>),
    [
        case py:eval(<<"changing">>) of
            {ok, Map} -> ?assert(map_size(Map) >= 1999);
            {error, {'RuntimeError', _}} -> ok
        end
     || _ <- lists:seq(1, 200)
    ],
    ok = py:exec(<<"change_on = False\nchanger.join()">>),
    case py:eval(<<"Grows()">>) of
        {ok, _} -> ok;
        {error, {'RuntimeError', _}} -> ok
    end.

%% From Python and by class names of exceptions: never more than what the operator allows. In a VM of its own, as both
%% quotas are of the life of a VM.
atoms_by_the_million(Config) ->
    {0, Output} = py_test_lib:run_node(Config, [atom_to_list(?MODULE), ":atoms_by_the_million_here(), halt()."]),
    ?assertEqual(<<>>, Output).

atoms_by_the_million_here() ->
    {ok, _} = application:ensure_all_started(erlang_python),
    Before = erlang:system_info(atom_count),
    {ok, Strings} = py:eval(<<"[f'text_{i}' for i in range(1_000_000)]">>),
    1000000 = length(Strings),
    {error, {'ValueError', _}} = py:eval(<<"[__import__('erlang').Atom(f'atom_{i}') for i in range(1_000_000)]">>),
    Minted = erlang:system_info(atom_count) - Before,
    ?assert(Minted >= 10000),
    ok = py:exec(<<
        "def raise_new(i):\n"
        "    raise type(f'Error{i}', (Exception,), {})('x')\n"
    >>),
    Classes = [
        begin
            {error, {Class, #{class := Name}}} = py:call('__main__', raise_new, [I]),
            ?assertEqual(<<"Error", (integer_to_binary(I))/binary>>, Name),
            Class
        end
     || I <- lists:seq(1, 5000)
    ],
    ?assertEqual('Exception', lists:last(Classes)),
    ?assert(erlang:system_info(atom_count) - Before < 10000 + 1024 + 1000).

module_import_errors(Config) ->
    Module = fun(Name, Source) -> py_test_lib:module(Config, Name, Source) end,
    {error, {'SyntaxError', #{syntax := #{line := 2}}}} = py:call(Module("bad_syntax", "x = 1\ndef\n"), f, []),
    {error, {'ImportError', _}} = py:call(Module("bad_import", "from os import no_such_name\n"), f, []),
    {error, {'ModuleNotFoundError', #{message := M}}} =
        py:call(Module("needs_missing", "import a_module_that_is_missing\n"), f, []),
    ?assertMatch({_, _}, binary:match(M, <<"a_module_that_is_missing">>)),
    {error, {'ZeroDivisionError', #{traceback := T}}} = py:call(Module("raises", "\n1 / 0\n"), f, []),
    #{line := 2} = lists:last(T),
    {error, {'SystemExit', _}} = py:call(Module("exits", "raise SystemExit(3)\n"), f, []),
    {error, {'SyntaxError', _}} = py:call(Module("null_bytes", [<<"x = '">>, 0, <<"'">>]), f, []),
    {error, {'ModuleNotFoundError', _}} = py:call('needs..dots', f, []),
    {error, _} = py:call('.relative', f, []),
    Package = filename:join(proplists:get_value(priv_dir, Config), "a_package"),
    ok = file:make_dir(Package),
    ok = file:write_file(filename:join(Package, "__init__.py"), ""),
    ok = file:write_file(filename:join(Package, "sub.py"), "import a_dependency_that_is_missing\ndef f(): pass\n"),
    {error, {'ModuleNotFoundError', #{message := M2}}} = py:call(a_package, 'sub.f', []),
    ?assertMatch({_, _}, binary:match(M2, <<"a_dependency_that_is_missing">>)),
    {error, {'AttributeError', _}} = py:call(a_package, 'other.f', []).

system_exit_is_an_error(_) ->
    {error, {'SystemExit', #{message := <<"3">>}}} = py:call(sys, exit, [3]),
    {error, {'SystemExit', _}} = py:exec(<<"raise SystemExit">>),
    {error, {'KeyboardInterrupt', _}} = py:exec(<<"raise KeyboardInterrupt">>),
    {error, {'GeneratorExit', _}} = py:exec(<<"raise GeneratorExit">>).

exception_whose_text_raises(_) ->
    ok = py:exec(<<
        "class Mute(Exception):\n"
        "    def __str__(self): raise RuntimeError('no')\n"
        "    __repr__ = __str__\n"
        "class Lies(Exception):\n"
        "    def __str__(self): return 7\n"
        "class Exits(Exception):\n"
        "    def __str__(self): raise SystemExit\n"
        "class Deep(Exception):\n"
        "    def __str__(self): return str(self)\n"
        "def throw(name): raise globals()[name]('x')\n"
    >>),
    [
        begin
            {error, {Class, #{message := Text} = Error}} = py:call('__main__', throw, [Class]),
            ?assert(is_binary(Text)),
            ?assertMatch([_ | _], unicode:characters_to_list(py:format_error({Class, Error})))
        end
     || Class <- ['Mute', 'Lies', 'Exits', 'Deep']
    ].

exception_group_and_chain(_) ->
    ok = py:exec(<<
        "def group():\n"
        "    raise ExceptionGroup('g', [ValueError('v'), ExceptionGroup('h', [KeyError('k')])])\n"
        "def chain():\n"
        "    try: 1 / 0\n"
        "    except ZeroDivisionError as e: raise ValueError('v') from e\n"
        "def context():\n"
        "    try: 1 / 0\n"
        "    except ZeroDivisionError: raise ValueError('v')\n"
        "def noted():\n"
        "    e = ValueError('v'); e.add_note('n1'); e.add_note('n2'); raise e\n"
    >>),
    {error, {'ExceptionGroup', #{exceptions := [{'ValueError', _}, {'ExceptionGroup', Inner}]}}} =
        py:call('__main__', group, []),
    #{exceptions := [{'KeyError', _}]} = Inner,
    {error, {'ValueError', #{cause := {'ZeroDivisionError', _}}}} = py:call('__main__', chain, []),
    {error, {'ValueError', #{context := {'ZeroDivisionError', _}}}} = py:call('__main__', context, []),
    {error, {'ValueError', #{notes := [<<"n1">>, <<"n2">>]}}} = py:call('__main__', noted, []).

chain_that_meets_itself(_) ->
    ok = py:exec(<<
        "def loop():\n"
        "    a, b = ValueError('a'), ValueError('b')\n"
        "    a.__cause__, b.__cause__ = b, a\n"
        "    raise a\n"
        "def long():\n"
        "    e = ValueError(0)\n"
        "    for i in range(1, 100000):\n"
        "        n = ValueError(i); n.__cause__ = e; e = n\n"
        "    raise e\n"
    >>),
    {error, {'ValueError', _}} = py:call('__main__', loop, []),
    {error, {'ValueError', #{message := <<"99999">>}}} = py:call('__main__', long, []).

recursion_error(_) ->
    ok = py:exec(<<
        "def down(n): return down(n + 1)\n"
        "class R:\n"
        "    def __getattr__(self, n): return getattr(self, n + 'x')\n"
    >>),
    {error, {'RecursionError', #{traceback := T}}} = py:call('__main__', down, [0]),
    ?assert(length(T) =< 101),
    {error, {'RecursionError', _}} = py:eval(<<"R().x">>),
    {ok, 1} = py:eval(<<"1">>).

%% What recurses in C, where the limit assumes the megabytes of stack that our threads have.
recursion_in_c(_) ->
    ok = py:exec(<<
        "def nested_list(n):\n"
        "    x = []\n"
        "    for _ in range(n): x = [x]\n"
        "    return x\n"
        "deep = nested_list(200000)\n"
    >>),
    {error, {'RecursionError', _}} = py:eval(<<"repr(deep)">>),
    {error, {'RecursionError', _}} = py:eval(<<"deep == nested_list(200000)">>),
    {error, _} = py:eval(<<"__import__('json').loads('[' * 200000)">>),
    {error, _} = py:eval(<<"__import__('pickle').dumps(deep)">>),
    {error, _} = py:eval(<<"eval('(' * 50000)">>),
    ok = py:exec(<<"del deep">>).

memory_error(_) ->
    {error, {'MemoryError', _}} = py:eval(<<"bytearray(1 << 60)">>),
    {error, {'MemoryError', _}} = py:eval(<<"[0] * (1 << 58)">>),
    {error, {'OverflowError', _}} = py:eval(<<"bytearray(1 << 70)">>).

result_that_cannot_be_converted(_) ->
    {error, {'UnicodeEncodeError', _}} = py:eval(<<"'\\ud800'">>),
    {error, {'ValueError', _}} = py:eval(<<"{1: 'a', 1.5: 'b', 'x': 'c', b'x': 'd'}">>),
    {error, {'TypeError', _}} = py:call(builtins, dict, [[{[], 1}]]),
    {error, {'TypeError', _}} = py:call(builtins, id, [#{#{} => 1}]).

result_that_is_huge_is_dropped_with_its_caller(_) ->
    {ok, _} = py:gc(),
    Monitors = [
        element(2, spawn_monitor(fun() ->
            _ = py:spawn_call(builtins, list, [{bytes, binary:copy(<<1>>, 1000000)}]),
            _ = py:spawn_call(builtins, bytes, [10000000])
        end))
     || _ <- lists:seq(1, 50)
    ],
    [
        receive
            {'DOWN', Monitor, process, _, normal} -> ok
        end
     || Monitor <- Monitors
    ],
    py_test_lib:eventually(fun() -> #{requests := 0, refs := 0, pins := 0} = py_nif:counters() end).

context_stopped_from_many_processes(_) ->
    [
        begin
            C = py_test_lib:context(#{}),
            py_test_lib:parallel(20, fun
                (I) when I rem 2 =:= 0 ->
                    try py_context:stop(C) of
                        ok -> ok
                    catch
                        exit:_ -> ok
                    end;
                (_) ->
                    {error, _} = calls(C, 1)
            end)
        end
     || _ <- lists:seq(1, 20)
    ].

casts_without_end(_) ->
    C = py_test_lib:context(#{max_queue => 1000}),
    ok = py:exec(C, <<"n = 0\ndef count():\n    global n\n    n += 1">>),
    Results = [py:cast(C, '__main__', count, []) || _ <- lists:seq(1, 100000)],
    Taken = length([ok || ok <- Results]),
    ?assertEqual(100000 - Taken, length([1 || {error, overloaded} <- Results])),
    py_test_lib:eventually(fun() -> {ok, Taken} = py:eval(C, <<"n">>) end),
    py_context:stop(C).

spawned_calls_never_awaited(_) ->
    {Pid, Monitor} = spawn_monitor(fun() ->
        _ = [py:spawn_call(builtins, abs, [I]) || I <- lists:seq(1, 50000)],
        receive
            enough -> ok
        end
    end),
    py_test_lib:eventually(fun() -> {message_queue_len, 50000} = process_info(Pid, message_queue_len) end),
    Pid ! enough,
    receive
        {'DOWN', Monitor, process, Pid, normal} -> ok
    after 0 -> exit(Pid, kill),
        receive
            {'DOWN', Monitor, process, Pid, _} -> ok
        end
    end.

source_that_is_huge(_) ->
    {ok, 100000} = py:eval(["len([", lists:duplicate(100000, "1,"), "])"]),
    ok = py:exec([["x", integer_to_list(I), " = ", integer_to_list(I), "\n"] || I <- lists:seq(1, 20000)]),
    {ok, 20000} = py:eval(<<"x20000">>),
    ok = py:exec(<<"for n in list(globals()):\n    if n[0] == 'x' and n[1:].isdigit(): del globals()[n]\n">>).
