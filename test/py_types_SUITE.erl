%% The border of types from Erlang's side: each line of docs/types.md, and the ways in which bridges have failed there.
%% Python's side is python/tests/test_types.py. Codecs are in py_codec_SUITE, what is refused and how much may cross in
%% py_type_limits_SUITE, errors in py_errors_SUITE.
-module(py_types_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0]).
-export([groups/0]).
-export([suite/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-compile([export_all, nowarn_export_all]).

-define(ERROR(Class), {error, {Class, #{}}}).

suite() -> [{timetrap, {minutes, 3}}].

all() -> [{group, to_python}, {group, to_erlang}, properties].

groups() ->
    [
        {to_python, [], [
            integers, integers_of_any_size, floats, booleans_and_none, atoms, atoms_of_all_scripts,
            atoms_are_strs, text_binaries, other_binaries, tagged_bytes, tagged_buffer, binaries_as_bytes, bitstrings,
            lists, improper_lists, tuples, maps, map_with_32_and_33_keys, identifiers_of_processes, funs,
            keyword_names, embedded_nuls
        ]},
        {to_erlang, [], [
            text, bytes_like, booleans_before_integers, enums_of_numbers_and_text, numpy_scalars, not_a_number,
            mappings, dataclasses, only_lists_are_lists, named_tuples, sets, everything_else_is_a_ref,
            refs_are_the_object, refs_die, large_binaries_are_pinned, to_term_of_objects
        ]}
    ].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    ok = py:exec(
        "import erlang, _erlang\n"
        "def identity(x): return x\n"
        "def describe(x): return (type(x).__name__, repr(x))\n"
        "def nest(kind, depth):\n"
        "    x = kind()\n"
        "    for _ in range(depth - 1): x = kind([x])\n"
        "    return x\n"
        "def nest_dict(depth):\n"
        "    x = {}\n"
        "    for _ in range(depth - 1): x = {1: x}\n"
        "    return x\n"),
    Started.

end_per_suite(Config) ->
    {ok, _} = py:eval("[globals().pop(n, None) for n in ('target', 'alive', 'wide', 'link', 'x')] and None"),
    ok = py_test_lib:stop(Config).

%% ---- helpers ----

same(Term) ->
    ?assertEqual({ok, Term}, py:call('__main__', identity, [Term])),
    {ok, Back} = py:call('__main__', identity, [Term]),
    ?assert(Back =:= Term).

describe(Term) ->
    {ok, {Type, Repr}} = py:call('__main__', describe, [Term]),
    {Type, Repr}.

eval(Source) -> py:eval(Source).

value(Source) ->
    {ok, Value} = py:eval(Source),
    Value.

message({error, {_, #{message := Message}}}) -> Message.

contains(Text, Part) -> ?assertNotEqual(nomatch, string:find(Text, Part)).

nested(_, 0) -> [];
nested(Wrap, Depth) -> Wrap(nested(Wrap, Depth - 1)).

%% ---- Erlang to Python and back ----

integers(_) ->
    [same(N) || N <- [0, 1, -1, 255, 256, 257, -5, -6, 1 bsl 30, -(1 bsl 30), 1 bsl 59, -(1 bsl 59), (1 bsl 59) - 1]],
    ?assertEqual({<<"int">>, <<"42">>}, describe(42)).

integers_of_any_size(_) ->
    Bits = [60, 61, 62, 63, 64, 65, 127, 128, 2039, 2040, 2041, 10000],
    [same(Sign * ((1 bsl B) + Off)) || Sign <- [1, -1], B <- Bits, Off <- [-1, 0, 1]],
    %% 10^100,000, both ways, whatever the limit on decimal text
    Huge = pow(10, 100000),
    same(Huge),
    same(-Huge),
    ?assertEqual({ok, Huge}, eval("10**100000")),
    ?assertEqual({ok, true}, py:eval("x == 10**100000", #{x => Huge})),
    ?assertEqual({ok, true}, py:eval("x == -10**100000", #{x => -Huge})).

pow(_, 0) -> 1;
pow(X, N) when N rem 2 =:= 0 -> pow(X * X, N div 2);
pow(X, N) -> X * pow(X, N - 1).

floats(_) ->
    [same(F) || F <- [0.0, 1.0, -1.5, 1.0e308, -1.0e308, 5.0e-324, 2.2250738585072014e-308, 0.1]],
    ?assertEqual({ok, true}, py:eval("str(x) == '-0.0'", #{x => -0.0})),
    {ok, Zero} = eval("-0.0"),
    ?assertEqual(<<-0.0/float>>, <<Zero/float>>).

booleans_and_none(_) ->
    ?assertEqual({<<"bool">>, <<"True">>}, describe(true)),
    ?assertEqual({<<"bool">>, <<"False">>}, describe(false)),
    same(true),
    same(false),
    [?assertEqual({<<"NoneType">>, <<"None">>}, describe(N)) || N <- [none, nil, undefined]],
    ?assertEqual({ok, [none, none, none]}, py:call('__main__', identity, [[none, nil, undefined]])).

atoms(_) ->
    [same(A) || A <- [ok, 'with space', '', 'UPPER', list_to_atom(lists:duplicate(255, $a))]],
    ?assertEqual({<<"Atom">>, <<"Atom('ok')">>}, describe(ok)),
    ?assertEqual({ok, true}, py:eval("a is b and a is erlang.Atom('same')", #{a => same, b => same})).

atoms_of_all_scripts(_) ->
    [same(A) || A <- ['å', 'ÿ', 'λ', '日本語', '😀', list_to_atom(lists:duplicate(255, 16#1F600))]],
    ?assertEqual({ok, ['日本語', 'é']}, eval(<<"[erlang.Atom('日本語'), erlang.Atom('é')]"/utf8>>)).

atoms_are_strs(_) ->
    ?assertEqual({ok, 1}, py:eval("d['key']", #{d => #{key => 1}})),
    ?assertEqual({ok, true}, py:eval("a == 'abc' and hash(a) == hash('abc') and isinstance(a, str)", #{a => abc})),
    ?assertEqual({ok, <<"{\"a\": \"b\"}">>}, py:eval("__import__('json').dumps(x)", #{x => #{a => b}})),
    ?assertEqual({ok, <<"str">>}, py:eval("type(str(a)).__name__", #{a => abc})).

text_binaries(_) ->
    Texts = [<<>>, <<"a">>, <<"plain">>, <<"é"/utf8>>, <<"日本語"/utf8>>, <<16#10FFFF/utf8>>, <<"a😀b"/utf8>>,
        binary:copy(<<"x">>, 31), binary:copy(<<"x">>, 32), binary:copy(<<"x">>, 33), binary:copy(<<"é"/utf8>>, 5000)],
    [same(T) || T <- Texts],
    [?assertMatch({<<"str">>, _}, describe(T)) || T <- Texts].

%% Not UTF-8: stray bytes, overlong forms, surrogates, over U+10FFFF, cut off.
other_binaries(_) ->
    Raw = [<<255>>, <<"abc", 128>>, <<16#C0, 16#80>>, <<16#ED, 16#A0, 16#80>>, <<16#F4, 16#90, 16#80, 16#80>>,
        <<16#E2, 16#82>>, <<16#F0, 16#80, 16#80, 16#80>>, <<(binary:copy(<<"x">>, 40))/binary, 16#C3>>,
        <<16#F5, 16#80, 16#80, 16#80>>],
    [same(B) || B <- Raw],
    [?assertMatch({<<"bytes">>, _}, describe(B)) || B <- Raw].

tagged_bytes(_) ->
    ?assertEqual({<<"bytes">>, <<"b'abc'">>}, describe({bytes, <<"abc">>})),
    ?assertEqual({ok, <<"abc">>}, py:call('__main__', identity, [{bytes, <<"abc">>}])),
    same({bytes, 1}),
    same({bytes, <<"a">>, <<"b">>}).

tagged_buffer(_) ->
    Binary = binary:copy(<<"0123456789">>, 100000),
    ?assertEqual({ok, {true, 1000000, 53, <<"012">>}},
        py:eval("(type(b) is erlang.Buffer, len(b), b[5], bytes(b[0:3]))", #{b => {buffer, Binary}})),
    ?assertEqual({ok, erlang:crc32(Binary)}, py:call(binascii, crc32, [{buffer, Binary}])),
    %% the binary itself comes back
    Before = lists:sort([Address || {Address, _, _} <- off_heap()]),
    {ok, Back} = py:call('__main__', identity, [{buffer, Binary}]),
    ?assertEqual(Binary, Back),
    ?assertEqual([], [New || {New, Size, _} <- off_heap(), Size =:= 1000000, not lists:member(New, Before)]).

off_heap() ->
    {binary, Binaries} = process_info(self(), binary),
    Binaries.

binaries_as_bytes(_) ->
    Term = [<<"text">>, {<<"x">>, #{<<"k">> => <<255>>}}],
    Options = #{binaries => bytes},
    ?assertEqual({ok, <<"[b'text', (b'x', {b'k': b'\\xff'})]">>}, py:call(builtins, repr, [Term], #{}, Options)),
    ?assertEqual({ok, Term}, py:call('__main__', identity, [Term], #{}, Options)).

bitstrings(_) ->
    [same(B) || B <- [<<1:1>>, <<5:3>>, <<"abc", 5:5>>, <<0:7>>, <<(binary:copy(<<7>>, 100))/binary, 1:7>>]],
    ?assertEqual({<<"BitString">>, <<"BitString(b'\\xa0', 3)">>}, describe(<<5:3>>)),
    <<_:3, Offset/bitstring>> = <<"offset bits">>,
    same(Offset).

lists(_) ->
    [same(L) || L <- [[], [1], "charlist", [[], [[]], [1, [2]]], lists:seq(1, 10000), [a, <<"b">>, 1.5]]],
    ?assertEqual({<<"list">>, <<"[1, 'a', Atom('b')]">>}, describe([1, <<"a">>, b])).

improper_lists(_) ->
    [same(L) || L <- [[1 | 2], [1, 2, 3 | x], [[1 | 2] | {3}], [<<"a">> | <<"b">>]]],
    ?assertEqual({<<"ImproperList">>, <<"ImproperList([1, 2], 3)">>}, describe([1, 2 | 3])).

tuples(_) ->
    [same(T)
     || T <- [{}, {1}, {a, {b}}, list_to_tuple(lists:seq(1, 1000)), {error, enoent}, {py_ref, 1, 2},
              {py_ref, <<"x">>, make_ref()}]],
    ?assertEqual({<<"tuple">>, <<"(Atom('ok'), 1)">>}, describe({ok, 1})).

maps(_) ->
    [same(M) || M <- [#{}, #{a => 1}, #{<<"a">> => #{<<"b">> => [1]}}, #{1 => 2, {1, 2} => x, [x | y] => z, 1.5 => w}]],
    ?assertEqual({<<"dict">>, <<"{Atom('a'): 1}">>}, describe(#{a => 1})).

map_with_32_and_33_keys(_) ->
    [same(maps:from_list([{integer_to_binary(I), I} || I <- lists:seq(1, N)])) || N <- [31, 32, 33, 34, 1000, 20000]].

identifiers_of_processes(_) ->
    Port = hd(erlang:ports()),
    Ref = make_ref(),
    [same(T) || T <- [self(), Ref, Port, alias_of()]],
    ?assertEqual({<<"Pid">>, list_to_binary(pid_to_list(self()))}, describe(self())),
    ?assertEqual({<<"Reference">>, list_to_binary(ref_to_list(Ref))}, describe(Ref)),
    ?assertEqual({<<"Port">>, list_to_binary(port_to_list(Port))}, describe(Port)),
    ?assertEqual({ok, true}, py:eval("a == b and hash(a) == hash(b) and a != c and len({a, b, c}) == 2",
        #{a => Ref, b => Ref, c => make_ref()})),
    %% of another node
    same(binary_to_term(<<131, 88, 119, 3, "a@b", 1:32, 2:32, 3:32>>)),
    same(binary_to_term(<<131, 90, 1:16, 119, 3, "a@b", 3:32, 7:32>>)).

alias_of() -> erlang:alias().

funs(_) ->
    X = make_ref(),
    Fun = fun() -> X end,
    same(Fun),
    {ok, Back} = py:call('__main__', identity, [Fun]),
    ?assertEqual(X, Back()),
    same(fun lists:map/2),
    ?assertMatch({<<"Fun">>, _}, describe(Fun)),
    %% a fun that stays in Python keeps its environment
    ok = py:exec("kept = []"),
    {ok, none} = py:eval("kept.append(f)", #{f => Fun}),
    erlang:garbage_collect(),
    {ok, Kept} = py:eval("kept.pop()"),
    ?assertEqual(X, Kept()).

keyword_names(_) ->
    ?assertEqual({ok, #{<<"a">> => 1, <<"b">> => 2}}, py:call(builtins, dict, [], #{a => 1, <<"b">> => 2})),
    ?assertEqual({ok, #{<<"none">> => 1, <<"true">> => 2}}, py:call(builtins, dict, [], #{none => 1, true => 2})),
    ?assertMatch(?ERROR('TypeError'), py:call(builtins, dict, [], #{<<"not one">> => 1})),
    ?assertMatch(?ERROR('TypeError'), py:call(builtins, dict, [], #{1 => 1})),
    ?assertMatch(?ERROR('TypeError'), py:call(builtins, dict, [], #{a => 1, <<"a">> => 2})),
    %% names are text also where binaries are bytes
    ?assertEqual({ok, #{<<"k">> => <<"v">>}}, py:call(builtins, dict, [], #{<<"k">> => <<"v">>}, #{binaries => bytes})).

embedded_nuls(_) ->
    [same(T) || T <- [<<0>>, <<"a", 0, "b">>, <<0, 255, 0>>, 'a\0b', #{<<0>> => <<0, 0>>}, <<0, 0, 1:1>>]],
    ?assertEqual({ok, 3}, py:call(builtins, len, [<<"a", 0, "b">>])),
    ?assertEqual({ok, <<"a", 0, "b">>}, eval("'a\\0b'")).

%% ---- Python to Erlang ----

text(_) ->
    ?assertEqual({ok, <<"é€😀"/utf8>>}, eval("'\\xe9\\u20ac\\U0001f600'")),
    ?assertEqual({ok, <<>>}, eval("''")),
    ?assertEqual({ok, <<"sub">>}, eval("type('S', (str,), {})('sub')")).

bytes_like(_) ->
    ?assertEqual({ok, [<<255>>, <<1, 2>>, <<"bc">>, <<>>]},
        eval("[b'\\xff', bytearray([1, 2]), memoryview(b'abcd')[1:3], b'']")),
    ?assertMatch({ok, {py_ref, <<"memoryview">>, _}}, eval("memoryview(b'abcd')[::2]")),
    ?assertMatch(?ERROR('ValueError'), eval("(lambda v: (v.release(), v)[1])(memoryview(b'a'))")).

booleans_before_integers(_) ->
    ?assertEqual({ok, [true, 1, false, 0, none]}, eval("[True, 1, False, 0, None]")).

enums_of_numbers_and_text(_) ->
    ok = py:exec(
        "import enum\n"
        "class Level(enum.IntEnum): LOW = 1\n"
        "class Name(enum.StrEnum): A = 'a'\n"
        "class Bits(enum.IntFlag): R = 4; W = 2\n"),
    ?assertEqual({ok, [1, <<"a">>, 6]}, eval("[Level.LOW, Name.A, Bits.R | Bits.W]")).

numpy_scalars(_) ->
    case py:call(importlib, import_module, [numpy]) of
        {ok, _} ->
            ok = py:exec("import numpy"),
            ?assertEqual({ok, [-3, 255, 1 bsl 63, 1.5, 0.5, 0.25, true, <<"s">>, <<"b">>]},
                eval("[numpy.int8(-3), numpy.uint8(255), numpy.uint64(2**63), numpy.float64(1.5), numpy.float32(0.5),"
                     " numpy.float16(0.25), numpy.bool_(True), numpy.str_('s'), numpy.bytes_(b'b')]")),
            ?assertEqual({ok, nan}, eval("numpy.float32('nan')")),
            ?assertMatch({ok, {py_ref, <<"numpy.ndarray">>, _}}, eval("numpy.array(3)")),
            ?assertMatch({ok, {py_ref, <<"numpy.datetime64">>, _}}, eval("numpy.datetime64('2020-01-01')")),
            %% more than a float holds
            ?assertMatch({ok, {py_ref, _, _}}, eval("numpy.longdouble(1) / 3"));
        {error, _} ->
            {skip, "numpy is not installed"}
    end.

not_a_number(_) ->
    ?assertEqual({ok, [nan, infinity, neg_infinity, nan]},
        eval("[float('nan'), float('inf'), -float('inf'), type('F', (float,), {})('nan')]")).

mappings(_) ->
    ok = py:exec("import collections, types"),
    ?assertEqual({ok, lists:duplicate(5, #{<<"a">> => 1})},
        eval("[{'a': 1}, collections.OrderedDict(a=1), types.MappingProxyType({'a': 1}),"
             " collections.ChainMap({'a': 1}), collections.Counter('a')]")),
    ?assertEqual({ok, #{<<"shown">> => 1}},
        eval("type('D', (dict,), {'items': lambda self: [('shown', 1)]})(hidden=2)")).

dataclasses(_) ->
    ok = py:exec(
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Point: name: int; surely_no_such_atom_yet: object\n"),
    Unknown = <<"surely_no_such_atom_yet">>,
    ?assertEqual({ok, #{name => 1, Unknown => #{name => 2, Unknown => none}}}, eval("Point(1, Point(2, None))")),
    ?assertMatch({ok, {py_ref, <<"type">>, _}}, eval("Point")).

only_lists_are_lists(_) ->
    [?assertMatch({ok, {py_ref, _, _}}, eval(S))
     || S <- ["range(3)", "collections.deque([1])", "iter([1])", "(x for x in [1])", "{}.keys()",
              "__import__('array').array('i', [1])"]],
    ?assertEqual({ok, [1, 2]}, eval("type('L', (list,), {})([1, 2])")).

named_tuples(_) ->
    ?assertEqual({ok, {1, 2}}, eval("collections.namedtuple('P', 'x y')(1, 2)")),
    ?assertMatch({ok, T} when element(1, T) =:= 2020, eval("__import__('time').strptime('2020', '%Y')")).

sets(_) ->
    {ok, Set} = eval("{1, 'a', (2, 3)}"),
    ?assert(sets:is_set(Set)),
    ?assertEqual([1, {2, 3}, <<"a">>], lists:sort(sets:to_list(Set))),
    ?assertEqual({ok, sets:from_list([1, 2], [{version, 2}])}, eval("frozenset([1, 2])")),
    ?assertEqual({ok, sets:new([{version, 2}])}, eval("set()")).

everything_else_is_a_ref(_) ->
    [?assertMatch({ok, {py_ref, Type, R}} when is_reference(R), eval(S))
     || {S, Type} <- [{"object()", <<"object">>}, {"len", <<"builtin_function_or_method">>},
                      {"__import__('os')", <<"module">>},
                      {"__import__('threading').Event()", <<"threading.Event">>}, {"lambda: 1", <<"function">>}]],
    ?assertMatch({ok, [1, {py_ref, <<"object">>, _}]}, eval("[1, object()]")).

refs_are_the_object(_) ->
    {ok, Ref} = eval("object()"),
    ok = py:exec("kept = object()"),
    {ok, Kept} = eval("kept"),
    ?assertEqual({ok, true}, py:eval("x is kept and y['in'][0] is kept", #{x => Kept, y => #{in => [Kept]}})),
    ?assertEqual({ok, false}, py:eval("x is kept", #{x => Ref})),
    ?assert(py:is_ref(Kept)).

refs_die(_) ->
    ok = py:exec(
        "import weakref\n"
        "class Thing: pass\n"
        "died = []\n"
        "def make():\n"
        "    t = Thing(); weakref.finalize(t, died.append, 1); return t\n"),
    Self = self(),
    Pid = spawn(fun() ->
        {ok, Ref} = py:call('__main__', make, []),
        Self ! {made, py:is_ref(Ref)},
        receive stop -> Ref end
    end),
    receive {made, true} -> ok end,
    ?assertEqual({ok, []}, eval("died")),
    Monitor = monitor(process, Pid),
    Pid ! stop,
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    py_test_lib:eventually(fun() -> {ok, [1]} = eval("died") end).

large_binaries_are_pinned(_) ->
    ok = py:exec("held = b'\\x80' * 1000000\ntext = 'x' * 1000000"),
    {ok, {Before, Old}} = eval("(__import__('sys').getrefcount(held), 0)"),
    {ok, Binary} = eval("held"),
    {ok, Text} = eval("text"),
    ?assertEqual({1000000, 1000000, Old}, {byte_size(Binary), byte_size(Text), 0}),
    ?assertEqual(binary:copy(<<128>>, 1000000), Binary),
    ?assertEqual(binary:copy(<<"x">>, 1000000), Text),
    {ok, During} = eval("__import__('sys').getrefcount(held)"),
    ?assertEqual(Before + 1, During),
    %% a part of it keeps it, also when Python has let go
    Part = binary:part(Binary, 500000, 1000),
    ok = py:exec("del held, text"),
    {ok, _} = py:gc(),
    ?assertEqual(binary:copy(<<128>>, 1000), Part).

to_term_of_objects(_) ->
    ok = py:exec("class Plain:\n    def __init__(self): self.name = 1; self.other_ = [2]\n"),
    {ok, Plain} = eval("Plain()"),
    {ok, Attributes} = py:to_term(Plain),
    ?assertEqual([1, [2]], lists:sort(maps:values(Attributes))),
    {ok, Range} = eval("range(3)"),
    ?assertEqual({ok, [0, 1, 2]}, py:to_term(Range)),
    {ok, Array} = eval("__import__('array').array('d', [1, 2])"),
    ?assertEqual({ok, [1.0, 2.0]}, py:to_term(Array)),
    {ok, Module} = eval("__import__('os')"),
    ?assertMatch(?ERROR('TypeError'), py:to_term(Module)),
    {ok, Class} = eval("Plain"),
    ?assertMatch(?ERROR('TypeError'), py:to_term(Class)).

%% ---- properties ----

-ifdef(HAVE_PROPER).
properties(_) ->
    [?assert(proper:quickcheck(P, [{numtests, 300}, {to_file, user}])) || P <- prop_py_types:all()].
-else.
properties(_) -> {skip, "PropEr is not installed"}.
-endif.
