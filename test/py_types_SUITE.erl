%% The border of types from Erlang's side: each line of docs/types.md, and the ways in which bridges have failed there.
%% Python's side is python/tests/test_types.py; errors are in py_errors_SUITE.
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

all() -> [{group, to_python}, {group, to_erlang}, {group, codecs}, {group, refusals}, {group, bounds}, properties].

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
        ]},
        {codecs, [], [
            built_in_codecs, malformed_tagged_tuples, own_codec, encoder_fails, decoder_fails, encoder_returns_itself,
            replaced_built_in, bytes_reach_decoders
        ]},
        {refusals, [], [
            equal_keys_from_erlang, equal_keys_from_python, unhashable_keys, surrogates, cycles, improper_tail_list,
            changing_list, changing_dict, ref_of_another_interpreter, pickling_pids
        ]},
        {bounds, [], [
            depth_within_the_limit, depth_100000_in, depth_100000_out, depth_of_refs, size_on_request,
            binary_of_100_mb, minting_atoms, class_objects_are_not_kept
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

%% ---- codecs ----

built_in_codecs(_) ->
    ok = py:exec(
        "import datetime, decimal, uuid, fractions, enum, pathlib, zoneinfo\n"
        "class Color(enum.Enum): RED = 1\n"
        "class Perm(enum.Flag): R = 4; W = 2\n"),
    Cases = [
        {"datetime.date(2026, 11, 20)", {py_date, {2026, 11, 20}}},
        {"datetime.time(1, 2, 3, 4)", {py_time, {1, 2, 3}, 4, none}},
        {"datetime.datetime(2026, 11, 20, 1, 2, 3, 4)", {py_datetime, {{2026, 11, 20}, {1, 2, 3}}, 4, none}},
        {"datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC)", {py_datetime, {{2026, 11, 20}, {0, 0, 0}}, 0, 0}},
        {"datetime.datetime(2026, 11, 20, tzinfo=datetime.timezone(datetime.timedelta(hours=1), 'X'))",
            {py_datetime, {{2026, 11, 20}, {0, 0, 0}}, 0, {3600, <<"X">>}}},
        {"datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo('Europe/Paris'))",
            {py_datetime, {{2026, 10, 25}, {2, 30, 0}}, 0, {zone, 3600, <<"Europe/Paris">>}, 1}},
        {"datetime.timedelta(days=-1, seconds=5, microseconds=7)", {py_timedelta, -1, 5, 7}},
        {"decimal.Decimal('1.10')", {py_decimal, <<"1.10">>}},
        {"decimal.Decimal('-Infinity')", {py_decimal, <<"-Infinity">>}},
        {"uuid.UUID(int=1)", {py_uuid, <<"00000000-0000-0000-0000-000000000001">>}},
        {"1.5-2j", {py_complex, 1.5, -2.0}},
        {"complex('inf')", {py_complex, infinity, 0.0}},
        {"fractions.Fraction(-1, 3)", {py_fraction, -1, 3}},
        {"Color.RED", {py_enum, <<"__main__:Color">>, <<"RED">>}},
        {"Perm.R | Perm.W", {py_enum, <<"__main__:Perm">>, 6}},
        {"pathlib.Path('/tmp/x')", {py_path, <<"/tmp/x">>}},
        {"pathlib.PureWindowsPath('c:/x')", {py_path, <<"c:\\x">>, windows}}
    ],
    [begin
        ?assertEqual({ok, Term}, eval(Source)),
        ?assertEqual({ok, {true, true}},
            py:eval(["(lambda y: (x == y, type(x) is type(y)))(", Source, ")"], #{x => Term}))
     end || {Source, Term} <- Cases],
    %% no subclass is cut down to its base
    ok = py:exec("class Stamp(datetime.datetime): nanosecond = 5"),
    ?assertMatch({ok, {py_ref, <<"Stamp">>, _}}, eval("Stamp(2026, 1, 1)")).

malformed_tagged_tuples(_) ->
    [?assertMatch({error, {_, #{}}}, py:call('__main__', identity, [T]))
     || T <- [{py_date, x}, {py_date, {2026, 13, 1}}, {py_date, 1, 2}, {py_decimal, <<"x">>}, {py_uuid, 1},
              {py_enum, <<"os:nothing">>, <<"X">>}, {py_enum, <<"not_imported:X">>, <<"X">>}, {py_fraction, 1, 0}]],
    %% the atoms alone, and tuples that only hold them, are ordinary
    same(py_date),
    same({x, py_date}).

own_codec(_) ->
    ok = py:exec(
        "class Pair:\n"
        "    def __init__(self, a, b): self.a = a; self.b = b\n"
        "class SubPair(Pair): pass\n"
        "erlang.register_encoder(Pair, lambda p: (erlang.Atom('pair'), p.a, p.b))\n"
        "erlang.register_decoder('pair', Pair)\n"),
    ?assertEqual({ok, [{pair, 1, [{pair, <<"x">>, none}]}]}, eval("[SubPair(1, [Pair('x', None)])]")),
    ?assertEqual({ok, {true, 2}}, py:eval("(type(p) is Pair, p.b)", #{p => {pair, 1, 2}})),
    ok = py:exec("erlang.register_encoder(Pair, None); erlang.register_decoder('pair', None)"),
    ?assertMatch({ok, {py_ref, <<"Pair">>, _}}, eval("Pair(1, 2)")),
    same({pair, 1, 2}),
    ok = py:exec("erlang.register_decoder('nothing_but_a_tag', lambda: 5)"),
    ?assertEqual({ok, [5]}, py:call('__main__', identity, [[{nothing_but_a_tag}]])),
    ok = py:exec("erlang.register_decoder('nothing_but_a_tag', None)").

encoder_fails(_) ->
    ok = py:exec("class Bad: pass\nerlang.register_encoder(Bad, lambda b: 1 / 0)"),
    ?assertMatch(?ERROR('ZeroDivisionError'), eval("[1, {'x': Bad()}]")).

decoder_fails(_) ->
    ok = py:exec("erlang.register_decoder('bad_tag', lambda *a: [][0])"),
    ?assertMatch(?ERROR('IndexError'), py:call('__main__', identity, [[{bad_tag, 1}]])),
    ok = py:exec("erlang.register_decoder('bad_tag', None)").

encoder_returns_itself(_) ->
    ok = py:exec(
        "class Self: pass\nerlang.register_encoder(Self, lambda s: s)\n"
        "class Endless: pass\nerlang.register_encoder(Endless, lambda s: Endless())"),
    ?assertMatch(?ERROR('ValueError'), eval("Self()")),
    ?assertMatch(?ERROR('RecursionError'), eval("Endless()")).

replaced_built_in(_) ->
    ok = py:exec(
        "import datetime\n"
        "erlang.register_encoder(datetime.date, lambda d: d.isoformat())\n"
        "erlang.register_decoder('py_date', lambda d: d)"),
    ?assertEqual({ok, <<"2026-11-20">>}, eval("datetime.date(2026, 11, 20)")),
    ?assertEqual({ok, {2026, 11, 20}}, py:call('__main__', identity, [{py_date, {2026, 11, 20}}])),
    ok = py:exec("erlang.register_encoder(datetime.date, None); erlang.register_decoder('py_date', None)"),
    ?assertEqual({ok, {py_date, {2026, 11, 20}}}, py:call('__main__', identity, [{py_date, {2026, 11, 20}}])),
    ?assertMatch(?ERROR('TypeError'), py:exec("erlang.register_encoder(int, str)")),
    ?assertMatch(?ERROR('ValueError'), py:exec("erlang.register_decoder('bytes', str)")).

bytes_reach_decoders(_) ->
    [?assertEqual({ok, T}, py:call('__main__', identity, [T], #{}, #{binaries => bytes}))
     || T <- [{py_decimal, <<"1.10">>}, {py_path, <<"/a">>}, {py_uuid, <<"00000000-0000-0000-0000-000000000001">>},
              {py_datetime, {{2026, 11, 20}, {0, 0, 0}}, 0, {zone, 0, <<"UTC">>}}]].

%% ---- refusals ----

equal_keys_from_erlang(_) ->
    [begin
        Error = py:call('__main__', identity, [Map]),
        ?assertMatch(?ERROR('ValueError'), Error),
        [contains(message(Error), Part) || Part <- Parts]
     end || {Map, Parts} <- [
        {#{a => 1, <<"a">> => 2}, [<<"Atom('a')">>, <<"'a'">>]},
        {#{1 => x, 1.0 => y}, [<<"1">>, <<"1.0">>]},
        {#{1 => x, true => y}, [<<"1">>, <<"True">>]},
        {#{none => x, undefined => y}, [<<"None">>]},
        {maps:from_list([{1.0, x} | [{I, I} || I <- lists:seq(1, 100)]]), [<<"1.0">>]}
     ]].

equal_keys_from_python(_) ->
    [begin
        Error = eval(Source),
        ?assertMatch(?ERROR('ValueError'), Error),
        [contains(message(Error), Part) || Part <- Parts]
     end || {Source, Parts} <- [
        {"{'a': 1, b'a': 2}", [<<"'a'">>, <<"b'a'">>]},
        {"{None: 1, erlang.Atom('none'): 2}", [<<"None">>, <<"Atom('none')">>]},
        {"{float('nan'): 1, float('nan'): 2}", [<<"nan">>]},
        {"{'a', b'a'}", [<<"'a'">>]},
        {"{**{str(i): i for i in range(200)}, b'77': 1}", [<<"'77'">>, <<"b'77'">>]}
     ]],
    ?assertMatch(?ERROR('ValueError'),
        eval("type('D', (dict,), {'items': lambda self: [('a', 1), ('a', 2)]})(x=1)")).

unhashable_keys(_) ->
    Error = py:call('__main__', identity, [#{[1, 2] => x}]),
    ?assertMatch(?ERROR('TypeError'), Error),
    contains(message(Error), <<"[1, 2]">>),
    ?assertMatch(?ERROR('TypeError'), py:call('__main__', identity, [#{#{} => x}])),
    ?assertMatch(?ERROR('TypeError'), py:call('__main__', identity, [#{{a, [1]} => x}])).

surrogates(_) ->
    ?assertMatch(?ERROR('UnicodeEncodeError'), eval("'\\ud800'")),
    ?assertMatch(?ERROR('UnicodeEncodeError'), eval("{'a': ['\\udfff' + 'x' * 100]}")),
    ?assertMatch(?ERROR('UnicodeEncodeError'), eval("erlang.Atom('\\ud800')")).

cycles(_) ->
    [begin
        Error = py:exec(["x = ", Make]),
        ok = Error,
        Result = eval("x"),
        ?assertMatch(?ERROR('ValueError'), Result),
        contains(message(Result), <<"contains itself">>)
     end || Make <- ["[]; x.append(x)", "{}; x[1] = x", "[]; x.append((1, [x]))", "[]; x.append({'k': x})",
                     "[]; x.append(erlang.ImproperList([1, x], 2))"]],
    ok = py:exec("x = None").

improper_tail_list(_) ->
    ?assertMatch(?ERROR('ValueError'), eval("erlang.ImproperList([1], [2])")),
    ?assertMatch(?ERROR('ValueError'), eval("erlang.ImproperList([], 2)")).

%% An encoder that changes what is being converted.
changing_list(_) ->
    ok = py:exec(
        "class Grows: pass\n"
        "class Shrinks: pass\n"
        "erlang.register_encoder(Grows, lambda g: (target.append(1), 1)[1])\n"
        "erlang.register_encoder(Shrinks, lambda g: (target.clear(), 1)[1])\n"),
    [?assertMatch(?ERROR('RuntimeError'), eval(["(target := ", L, ")"]))
     || L <- ["[1, Grows(), 3]", "[1, Shrinks(), 3]", "[Grows()]"]].

changing_dict(_) ->
    ok = py:exec(
        "class Clears: pass\n"
        "def change(_): target.clear(); [target.update({i: i}) for i in range(1000)]; return 7\n"
        "erlang.register_encoder(Clears, change)\n"),
    ?assertEqual({ok, #{1 => 7, 2 => 3}}, eval("(target := {1: Clears(), 2: 3})")).

%% Nothing of one interpreter gets into another.
ref_of_another_interpreter(_) ->
    process_flag(trap_exit, true),
    case py_context:start_link(#{isolation => interpreter}) of
        {ok, Context} ->
            {ok, Ref} = py:eval(Context, "object()"),
            Error = py:call('__main__', identity, [Ref]),
            ?assertMatch(?ERROR('ValueError'), Error),
            contains(message(Error), <<"interpreter">>),
            ok = py_context:stop(Context);
        {error, _} ->
            {skip, "contexts with an interpreter of their own are not there yet"}
    end.

pickling_pids(_) ->
    [?assertMatch(?ERROR('TypeError'), py:call(pickle, dumps, [T])) || T <- [self(), make_ref(), fun() -> ok end]],
    ?assertEqual({ok, true}, py:eval("__import__('copy').deepcopy(p) is p", #{p => self()})),
    ?assertEqual({ok, [true, true, true]},
        py:eval("(lambda p: [p.loads(p.dumps(v)) == v for v in (a, b, i)])(__import__('pickle'))",
            #{a => abc, b => <<1:1>>, i => [1 | 2]})).

%% ---- bounds ----

depth_within_the_limit(_) ->
    [same(nested(W, 990)) || W <- [fun(X) -> [X] end, fun(X) -> {X} end, fun(X) -> #{1 => X} end]].

depth_100000_in(_) ->
    [?assertMatch(?ERROR('RecursionError'), py:call('__main__', identity, [nested(W, 100000)]))
     || W <- [fun(X) -> [X] end, fun(X) -> {X} end, fun(X) -> #{1 => X} end, fun(X) -> [X | a] end,
              fun(X) -> {py_ref, <<"x">>, X} end]].

depth_100000_out(_) ->
    [?assertMatch(?ERROR('RecursionError'), eval(S))
     || S <- ["nest(list, 100000)", "nest(tuple, 100000)", "nest_dict(100000)",
              "nest(lambda x=(): erlang.ImproperList([1, *x], 2), 100000)", "nest(frozenset, 100000)"]],
    ?assertEqual({ok, 1}, eval("1")).

depth_of_refs(_) ->
    %% a ref is one level whatever is inside
    ok = py:exec(
        "class Link:\n    def __init__(self, x): self.x = x\n"
        "link = None\nfor _ in range(100000): link = Link(link)"),
    ?assertMatch({ok, {py_ref, <<"Link">>, _}}, eval("link")),
    ok = py:exec("while link: link = link.x").

size_on_request(_) ->
    ok = py:exec("_erlang._set_limits(1000, 5000)"),
    ?assertMatch(?ERROR('ValueError'), eval("list(range(10000))")),
    ?assertMatch(?ERROR('ValueError'), py:call('__main__', identity, [lists:seq(1, 10000)])),
    %% a small object that would be an enormous term
    ok = py:exec("wide = []\nfor _ in range(60): wide = [wide, wide]"),
    ?assertMatch(?ERROR('ValueError'), eval("wide")),
    ok = py:exec("_erlang._set_limits(1000, 0); wide = None"),
    ?assertEqual({ok, 10000}, py:call(builtins, len, [lists:seq(1, 10000)])).

binary_of_100_mb(_) ->
    Binary = binary:copy(<<"0123456789", 255>>, 9532509),
    ?assertEqual({ok, byte_size(Binary)}, py:call(builtins, len, [Binary])),
    {ok, Back} = py:call('__main__', identity, [Binary]),
    ?assert(Back =:= Binary).

minting_atoms(_) ->
    Before = erlang:system_info(atom_count),
    #{atoms := Made} = py_nif:counters(),
    try
        ok = py_nif:atom_quota(Made + 500),
        Error = eval("[erlang.Atom(f'minted_{i}') for i in range(1000000)]"),
        ?assertMatch(?ERROR('ValueError'), Error),
        contains(message(Error), <<"quota">>),
        ?assertMatch(#{atoms := Spent} when Spent =:= Made + 500, py_nif:counters()),
        %% those that exist are free
        ?assertEqual({ok, [ok, minting_atoms]}, eval("[erlang.Atom('ok'), erlang.Atom('minting_atoms')]")),
        ?assert(erlang:system_info(atom_count) - Before < 600)
    after
        ok = py_nif:atom_quota(10000)
    end,
    %% strings never become atoms
    Count = erlang:system_info(atom_count),
    {ok, Texts} = eval("{f'text_{i}': f'value_{i}' for i in range(20000)}"),
    ?assertEqual(20000, map_size(Texts)),
    ?assert(erlang:system_info(atom_count) - Count < 10).

%% Classes made at run time are not kept by the codec cache.
class_objects_are_not_kept(_) ->
    ok = py:exec(
        "import weakref, gc\n"
        "alive = weakref.WeakSet()\n"
        "def fresh():\n"
        "    cls = type('Fresh', (), {}); alive.add(cls); return cls()\n"),
    [{ok, {py_ref, _, _}} = py:call('__main__', fresh, []) || _ <- lists:seq(1, 500)],
    erlang:garbage_collect(),
    py_test_lib:eventually(fun() ->
        {ok, _} = py:gc(),
        {ok, Alive} = eval("len(alive)"),
        true = Alive =< 70
    end).

%% ---- properties ----

-ifdef(HAVE_PROPER).
properties(_) ->
    [?assert(proper:quickcheck(P, [{numtests, 300}, {to_file, user}])) || P <- prop_py_types:all()].
-else.
properties(_) -> {skip, "PropEr is not installed"}.
-endif.
