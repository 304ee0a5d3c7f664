%% What may not cross the border of types, and how much: keys that meet, cycles, what changes meanwhile, depth, size,
%% atoms.
-module(py_type_limits_SUITE).

-include_lib("stdlib/include/assert.hrl").

-import(py_types_SUITE, [same/1, eval/1, message/1, contains/2, nested/2]).

-compile([export_all, nowarn_export_all]).

-define(ERROR(Class), {error, {Class, #{}}}).

suite() -> py_types_SUITE:suite().

all() ->
    [
        equal_keys_from_erlang,
        equal_keys_from_python,
        unhashable_keys,
        surrogates,
        cycles,
        improper_tail_list,
        changing_list,
        changing_dict,
        ref_of_another_interpreter,
        pickling_pids,
        depth_within_the_limit,
        depth_100000_in,
        depth_100000_out,
        depth_of_refs,
        size_on_request,
        binary_of_100_mb,
        minting_atoms,
        class_objects_are_not_kept
    ].

init_per_suite(Config) -> py_types_SUITE:init_per_suite(Config).
end_per_suite(Config) -> py_types_SUITE:end_per_suite(Config).

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
