%% Codecs of Python's types and of one's own: what they make, how they fail, how they are replaced.
-module(py_codec_SUITE).

-include_lib("stdlib/include/assert.hrl").

-import(py_types_SUITE, [same/1, eval/1]).

-compile([export_all, nowarn_export_all]).

-define(ERROR(Class), {error, {Class, #{}}}).

suite() -> py_types_SUITE:suite().

all() ->
    [
        built_in_codecs,
        malformed_tagged_tuples,
        own_codec,
        encoder_fails,
        decoder_fails,
        encoder_returns_itself,
        replaced_built_in,
        bytes_reach_decoders
    ].

init_per_suite(Config) -> py_types_SUITE:init_per_suite(Config).
end_per_suite(Config) -> py_types_SUITE:end_per_suite(Config).

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
