%% Exceptions as Erlang terms, each promise of docs/errors.md, and the ways in which describing one could itself fail.
-module(py_errors_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([suite/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [
        shape, class_and_module, nested_class, message_of_any_script, traceback_of_a_file, text_follows_the_file,
        traceback_of_exec, long_tracebacks, notes, explicit_cause, implicit_context, suppressed_context,
        chain_that_meets_itself, long_chains, groups, deep_groups, wide_groups, syntax_errors, str_raises, str_lies,
        repr_and_str_recurse, recursion_error, memory_error, system_exit, keyboard_interrupt, generator_exit,
        stop_iteration, import_errors, surrogates_in_the_message, nul_in_the_message, huge_message, notes_of_odd_types,
        name_that_is_no_text, getattr_raises, exception_while_describing_leaves_none_behind, many_classes,
        same_class_is_no_new_atom, printed_as_python_does, no_leaks
    ].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    ok = py:exec("def boom(e):\n    raise e\n"),
    Started.

end_per_suite(Config) ->
    ok = py_test_lib:stop(Config).

%% ---- helpers ----

failure(Source) ->
    {error, {Class, Map}} = py:eval(Source),
    ?assert(is_atom(Class)),
    {Class, Map}.

raised(Source) ->
    {error, {Class, Map}} = py:exec(Source),
    {Class, Map}.

message({_, #{message := Message}}) -> Message.

%% ---- what is there ----

shape(_) ->
    {'ZeroDivisionError', Map} = failure("1 / 0"),
    #{message := <<"division by zero">>, class := <<"ZeroDivisionError">>, module := <<"builtins">>} = Map,
    [#{file := <<"<eval>">>, line := 1, function := <<"<module>">>, text := <<>>}] = maps:get(traceback, Map),
    ?assertEqual([class, message, module, traceback], lists:sort(maps:keys(Map))).

class_and_module(_) ->
    {'JSONDecodeError', #{class := <<"JSONDecodeError">>, module := <<"json.decoder">>}} =
        failure("__import__('json').loads('')"),
    {'Mine', #{module := <<"__main__">>, message := <<"x">>}} = raised("class Mine(Exception): pass\nraise Mine('x')").

nested_class(_) ->
    {'Inner', #{class := <<"Inner">>, qualname := <<"Outer.Inner">>}} =
        raised("class Outer:\n    class Inner(Exception): pass\nraise Outer.Inner()").

message_of_any_script(_) ->
    ?assertEqual(<<"é 日本 😀"/utf8>>, message(failure(<<"boom(ValueError('é 日本 😀'))"/utf8>>))),
    ?assertEqual(<<>>, message(failure("boom(ValueError())"))),
    ?assertEqual(<<"('a', 1)">>, message(failure("boom(ValueError('a', 1))"))).

traceback_of_a_file(Config) ->
    Module = source(Config, "traced",
        "def outer(x):\n    return inner(x)\n\n\ndef inner(x):\n    # why\n    return   1 / x\n"),
    {error, {'ZeroDivisionError', #{traceback := [First, Second]}}} = py:call(Module, outer, [0]),
    ?assertMatch(#{line := 2, function := <<"outer">>, text := <<"return inner(x)">>}, First),
    ?assertMatch(#{line := 7, function := <<"inner">>, text := <<"return   1 / x">>}, Second),
    ?assertEqual(<<"traced.py">>, filename:basename(maps:get(file, Second))).

text_follows_the_file(Config) ->
    Module = source(Config, "edited", "def f():\n    raise ValueError(1)\n"),
    {error, {_, #{traceback := [#{text := <<"raise ValueError(1)">>}]}}} = py:call(Module, f, []),
    _ = source(Config, "edited", "def f():\n    raise ValueError('another text')\n"),
    {ok, _} = py:reload(Module),
    {error, {_, #{traceback := [#{text := <<"raise ValueError('another text')">>}]}}} = py:call(Module, f, []).

source(Config, Name, Text) ->
    Dir = filename:join(proplists:get_value(priv_dir, Config), "source"),
    File = filename:join(Dir, Name ++ ".py"),
    ok = filelib:ensure_dir(File),
    ok = file:write_file(File, Text),
    Path = unicode:characters_to_binary(Dir),
    {ok, _} = py:eval("(p in __import__('sys').path) or __import__('sys').path.insert(0, p)", #{p => Path}),
    {ok, _} = py:call(importlib, invalidate_caches, []),
    %% sources of one second and one length would be taken from the cache of byte code
    {ok, _} = py:call(shutil, rmtree, [filename:join(Path, "__pycache__")], #{ignore_errors => true}),
    list_to_atom(Name).

traceback_of_exec(_) ->
    {'KeyError', #{traceback := Frames}} = raised("def f():\n    return {}['k']\n\n\nf()\n"),
    ?assertMatch([#{function := <<"<module>">>, line := 5}, #{function := <<"f">>, line := 2}], Frames).

long_tracebacks(_) ->
    ok = py:exec("def down(n):\n    if n == 0: raise ValueError('deep')\n    down(n - 1)\n"),
    {_, #{traceback := Short}} = failure("down(98)"),
    ?assertEqual(100, length(Short)),
    {_, #{traceback := Long}} = failure("down(500)"),
    ?assertEqual(101, length(Long)),
    ?assertEqual(#{omitted => 402}, lists:nth(51, Long)),
    ?assertMatch(#{function := <<"<module>">>}, hd(Long)),
    ?assertMatch(#{line := 2}, lists:last(Long)).

notes(_) ->
    {_, #{notes := [<<"one">>, <<"two">>]}} = raised("e = ValueError()\ne.add_note('one'); e.add_note('two')\nraise e").

explicit_cause(_) ->
    {'ValueError', #{cause := {'KeyError', #{message := <<"'k'">>, traceback := [_ | _]}}} = Map} =
        raised("try:\n    {}['k']\nexcept KeyError as k:\n    raise ValueError('v') from k\n"),
    ?assertNot(maps:is_key(context, Map)).

implicit_context(_) ->
    {'ValueError', #{context := {'KeyError', #{}}} = Map} =
        raised("try:\n    {}['k']\nexcept KeyError:\n    raise ValueError('v')\n"),
    ?assertNot(maps:is_key(cause, Map)).

suppressed_context(_) ->
    {'ValueError', Map} = raised("try:\n    {}['k']\nexcept KeyError:\n    raise ValueError('v') from None\n"),
    ?assertNot(maps:is_key(context, Map)),
    ?assertNot(maps:is_key(cause, Map)).

chain_that_meets_itself(_) ->
    {'ValueError', #{cause := {'KeyError', Inner}}} =
        raised("a = ValueError(); b = KeyError(); a.__cause__ = b; b.__cause__ = a\nraise a"),
    ?assertNot(maps:is_key(cause, Inner)),
    {'ValueError', Alone} = raised("a = ValueError(); a.__cause__ = a\nraise a"),
    ?assertNot(maps:is_key(cause, Alone)).

long_chains(_) ->
    {_, Map} = raised("e = None\nfor i in range(10000):\n    n = ValueError(i); n.__cause__ = e; e = n\nraise e"),
    ?assertEqual(33, chain_length(Map)).

chain_length(#{cause := {_, Map}}) -> 1 + chain_length(Map);
chain_length(_) -> 1.

groups(_) ->
    {'ExceptionGroup', #{message := Message, exceptions := [{'ValueError', One}, {'ExceptionGroup', Inner}]}} =
        failure("boom(ExceptionGroup('many', [ValueError(1), ExceptionGroup('in', [KeyError(2)])]))"),
    ?assertEqual(<<"many (2 sub-exceptions)">>, Message),
    ?assertMatch(#{message := <<"1">>}, One),
    ?assertMatch(#{exceptions := [{'KeyError', _}]}, Inner),
    {'BaseExceptionGroup', #{exceptions := [{'KeyboardInterrupt', _}]}} =
        failure("boom(BaseExceptionGroup('b', [KeyboardInterrupt()]))").

deep_groups(_) ->
    {'ExceptionGroup', _} = raised("e = ValueError()\nfor i in range(500): e = ExceptionGroup('g', [e])\nraise e").

%% Bounded in all, not only at each level.
wide_groups(_) ->
    {'ExceptionGroup', #{exceptions := Wide}} =
        raised("raise ExceptionGroup('w', [ValueError(i) for i in range(100000)])"),
    ?assertEqual(255, length(Wide)),
    {'ExceptionGroup', Map} =
        raised("e = ValueError()\nfor i in range(20): e = ExceptionGroup('g', [e, e, e])\nraise e"),
    ?assert(erts_debug:flat_size(Map) < 1000000).

syntax_errors(_) ->
    {'SyntaxError', #{syntax := #{line := 2, offset := 5, text := Text, file := <<"<exec>">>}, message := Message}} =
        raised("x = 1\nx = = 2\n"),
    ?assertEqual(<<"x = = 2">>, string:trim(Text)),
    ?assertEqual(<<"invalid syntax (<exec>, line 2)">>, Message),
    {'SyntaxError', _} = raised("raise SyntaxError('by hand')"),
    {'SyntaxError', _} = raised("e = SyntaxError('odd'); e.lineno = 'x'; e.offset = 2**100; e.filename = 3\nraise e").

%% ---- what must not hurt ----

str_raises(_) ->
    {'Silent', #{message := <<"Silent">>, class := <<"Silent">>}} =
        raised("class Silent(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise Silent()").

str_lies(_) ->
    {'Lies', #{message := <<"Lies">>}} =
        raised("class Lies(Exception):\n    def __str__(self): return 5\nraise Lies()"),
    {'Sub', #{message := <<"text">>}} =
        raised("class S(str): pass\nclass Sub(Exception):\n    def __str__(self): return S('text')\nraise Sub()").

repr_and_str_recurse(_) ->
    {'Endless', #{message := <<"Endless">>}} =
        raised("class Endless(Exception):\n    def __str__(self): return str(self)\nraise Endless()").

recursion_error(_) ->
    {'RecursionError', #{traceback := Frames, message := Message}} = raised("def f(): return f()\nf()"),
    ?assertEqual(101, length(Frames)),
    ?assertNotEqual(nomatch, string:find(Message, <<"recursion">>)),
    ?assertEqual({ok, 1}, py:eval("1")).

memory_error(_) ->
    {'MemoryError', #{}} = failure("'x' * (2**62)"),
    {'MemoryError', #{}} = failure("[0] * (2**59)"),
    ?assertEqual({ok, 1}, py:eval("1")).

system_exit(_) ->
    {'SystemExit', #{message := <<"3">>}} = failure("__import__('sys').exit(3)"),
    {'SystemExit', #{message := <<>>}} = failure("boom(SystemExit())").

keyboard_interrupt(_) ->
    {'KeyboardInterrupt', #{module := <<"builtins">>}} = failure("boom(KeyboardInterrupt())").

generator_exit(_) ->
    {'GeneratorExit', _} = failure("boom(GeneratorExit())").

stop_iteration(_) ->
    {'StopIteration', _} = failure("next(iter([]))"),
    {'StopIteration', #{message := <<"5">>}} = failure("boom(StopIteration(5))").

import_errors(_) ->
    {error, {'ModuleNotFoundError', #{message := <<"No module named 'no_such_module'">>}}} =
        py:call(no_such_module, f, []),
    {error, {'AttributeError', #{}}} = py:call(os, no_such_function, []).

surrogates_in_the_message(_) ->
    ?assertEqual(<<"a\\ud800b">>, message(failure("boom(ValueError('a\\ud800b'))"))).

nul_in_the_message(_) ->
    ?assertEqual(<<"a", 0, "b">>, message(failure("boom(ValueError('a\\0b'))"))).

huge_message(_) ->
    ?assertEqual(10000000, byte_size(message(failure("boom(ValueError('x' * 10**7))")))).

notes_of_odd_types(_) ->
    {_, #{notes := [<<"1">>, <<"<note that cannot be shown>">>, <<"ok">>]}} = raised(
        "class Odd:\n    def __str__(self): raise RuntimeError\n"
        "e = ValueError(); e.__notes__ = [1, Odd(), 'ok']\nraise e"),
    {_, Map} = raised("e = ValueError(); e.__notes__ = 7\nraise e"),
    ?assertNot(maps:is_key(notes, Map)),
    {_, #{notes := Many}} = raised("e = ValueError(); e.__notes__ = ['n'] * 100000\nraise e"),
    ?assertEqual(100, length(Many)).

name_that_is_no_text(_) ->
    Long = binary:copy(<<"L">>, 300),
    {'Exception', #{class := Long}} = raised("raise type('L' * 300, (Exception,), {})()"),
    {'Été', _} = raised(<<"raise type('Été', (Exception,), {})()"/utf8>>),
    {_, #{module := <<>>}} = raised("raise type('NoModule', (Exception,), {'__module__': 5})()").

getattr_raises(_) ->
    {'Closed', #{message := <<"m">>}} = raised(
        "class Closed(SyntaxError):\n"
        "    def __getattribute__(self, name): raise RuntimeError(name)\n"
        "    def __str__(self): return 'm'\n"
        "raise Closed()").

%% An exception of the description must not surface in the next call.
exception_while_describing_leaves_none_behind(_) ->
    ok = py:exec("class Silent2(Exception):\n    def __str__(self): raise KeyboardInterrupt\n"),
    [begin
        {'Silent2', _} = failure("boom(Silent2())"),
        ?assertEqual({ok, 1}, py:eval("1"))
     end || _ <- lists:seq(1, 100)].

%% ---- classes as atoms ----

%% On a node of its own: the bound is for the life of a VM.
many_classes(Config) ->
    {Status, Output} = py_test_lib:run_node(Config, [
        "{ok, _} = application:ensure_all_started(erlang_python), ",
        atom_to_list(?MODULE), ":make_many_classes(), halt(0)."]),
    ?assertEqual({0, <<>>}, {Status, Output}).

make_many_classes() ->
    Raise = fun(N) ->
        Name = name(N),
        {error, {Class, #{class := Name}}} =
            py:eval("(_ for _ in ()).throw(type(name, (Exception,), {})())", #{name => Name}),
        Class
    end,
    Fallen = length([x || 'Exception' <- [Raise(N) || N <- lists:seq(1, 1500)]]),
    true = Fallen >= 1500 - 1024,
    true = Fallen < 600,
    %% what has its atom keeps it, and those that exist are not counted
    true = Raise(1) =/= 'Exception',
    {error, {'ValueError', _}} = py:eval("int('x')"),
    ok.

name(N) -> <<"Dynamic", (integer_to_binary(N))/binary>>.

same_class_is_no_new_atom(_) ->
    {'ValueError', _} = failure("int('x')"),
    Before = erlang:system_info(atom_count),
    [{'ValueError', _} = failure("int('x')") || _ <- lists:seq(1, 1000)],
    ?assertEqual(Before, erlang:system_info(atom_count)).

printed_as_python_does(_) ->
    Error = py:exec("try:\n    {}['k']\nexcept KeyError as k:\n    raise ValueError('v') from k\n"),
    ?assertEqual(
        <<"Traceback (most recent call last):\n"
          "  File \"<exec>\", line 2, in <module>\n"
          "KeyError: 'k'\n"
          "\nThe above exception was the direct cause of the following exception:\n\n"
          "Traceback (most recent call last):\n"
          "  File \"<exec>\", line 4, in <module>\n"
          "ValueError: v\n">>,
        unicode:characters_to_binary(py:format_error(Error))).

no_leaks(_) ->
    Sources = ["1 / 0", "boom(ExceptionGroup('g', [ValueError(1)]))", "down(200)", "[][0]"],
    Blocks = fun() ->
        [failure(S) || _ <- lists:seq(1, 500), S <- Sources],
        {ok, _} = py:gc(),
        {ok, N} = py:eval("__import__('sys').getallocatedblocks()"),
        N
    end,
    py_test_lib:steady(Blocks, 400).
