%% Round trips of random terms. Needs PropEr's modules, not its header, which Debian has in a package of its own.
-module(prop_py_types).

-ifdef(HAVE_PROPER).

-import(proper_types, [binary/0, binary/1, boolean/0, exactly/1, integer/0, list/1, non_empty/1, oneof/1]).

-define(FORALL(X, Type, Holds), proper:forall(Type, fun(X) -> Holds end)).
-define(LET(X, Type, Result), proper_types:bind(Type, fun(X) -> Result end, false)).
-define(SIZED(Size, Type), proper_types:sized(fun(Size) -> Type end)).
-define(LAZY(Type), proper_types:lazy(fun() -> Type end)).

-export([all/0]).

all() -> [prop_round_trip(), prop_as_bytes(), prop_equality(), prop_repr_round_trip()].

%% What is exact by the law comes back identical; what collides is refused.
prop_round_trip() ->
    ?FORALL(T, crossing(),
        case {collides(T), py:call('__main__', identity, [T])} of
            {false, Result} -> Result =:= {ok, T};
            {true, {error, {Class, #{}}}} -> Class =:= 'ValueError' orelse Class =:= 'TypeError';
            {true, _} -> false
        end).

%% And with every binary as bytes.
prop_as_bytes() ->
    Options = #{binaries => bytes},
    ?FORALL(T, crossing(), collides(T) orelse py:call('__main__', identity, [T], #{}, Options) =:= {ok, T}).

%% Python holds equal what Erlang holds identical.
prop_equality() ->
    ?FORALL(T, crossing(), collides(T) orelse py:eval("a == b", #{a => T, b => T}) =:= {ok, true}).

%% What Python printed is what Python reads back: the objects themselves are whole, not only their way home.
prop_repr_round_trip() ->
    ?FORALL(T, plain(), collides(T) orelse
        py:eval("__import__('ast').literal_eval(repr(x))", #{x => T}) =:= {ok, T}).

%% Maps with keys that Python holds equal, or cannot hash, are refused: test cases say how.
collides(M) when is_map(M) ->
    Keys = maps:keys(M),
    lists:any(fun unhashable/1, Keys) orelse length(lists:usort([norm(K) || K <- Keys])) < length(Keys) orelse
        lists:any(fun collides/1, maps:to_list(M));
collides([H | T]) -> collides(H) orelse collides(T);
collides(T) when is_tuple(T) -> lists:any(fun collides/1, tuple_to_list(T));
collides(_) -> false.

unhashable(T) when is_tuple(T) -> lists:any(fun unhashable/1, tuple_to_list(T));
unhashable(T) -> is_list(T) orelse is_map(T).

%% One form for what Python holds equal.
norm(true) -> 1.0;
norm(false) -> 0.0;
norm(N) when is_integer(N), abs(N) < 1 bsl 53 -> float(N);
norm(F) when F == 0.0 -> 0.0;
norm(A) when is_atom(A) -> atom_to_binary(A);
norm(T) when is_tuple(T) -> list_to_tuple([norm(E) || E <- tuple_to_list(T)]);
norm([H | T]) -> [norm(H) | norm(T)];
norm(T) -> T.

plain() -> ?SIZED(Size, plain(Size)).

plain(0) -> oneof([integer(), big(), proper_types:float(), text(), binary(), boolean(), none]);
plain(Size) ->
    ?LAZY(oneof([
        plain(0),
        list(plain(Size div 4)),
        ?LET(L, list(plain(Size div 4)), list_to_tuple(L)),
        ?LET(L, list({plain_key(), plain(Size div 4)}), maps:from_list(L))
    ])).

crossing() -> ?SIZED(Size, crossing(Size)).

crossing(0) ->
    oneof([
        integer(), big(), proper_types:float(), text(), binary(), proper_types:bitstring(), boolean(), none,
        atom_text(),
        exactly(self()), exactly(make_ref()), exactly(fun lists:map/2), exactly([]), exactly(#{}), exactly({})
    ]);
crossing(Size) ->
    ?LAZY(oneof([
        crossing(0),
        list(crossing(Size div 4)),
        ?LET({L, T}, {non_empty(list(crossing(Size div 4))), oneof([integer(), text()])}, improper(L, T)),
        ?LET(L, list(crossing(Size div 4)), list_to_tuple(L)),
        ?LET(L, list({key(), crossing(Size div 4)}), maps:from_list(L))
    ])).

improper([X], T) -> [X | T];
improper([X | More], T) -> [X | improper(More, T)].

key() -> oneof([plain_key(), atom_text()]).

plain_key() -> oneof([integer(), big(), proper_types:float(), text(), binary(), boolean(), {integer(), text()}]).

big() -> ?LET({Bytes, Sign}, {binary(40), oneof([1, -1])}, Sign * binary:decode_unsigned(Bytes)).

text() -> ?LET(Points, list(point()), unicode:characters_to_binary(Points)).

point() ->
    oneof([
        proper_types:integer(0, 127),
        proper_types:integer(128, 16#D7FF),
        proper_types:integer(16#E000, 16#10FFFF)
    ]).

%% A bounded set: random tests must not fill the atom table.
atom_text() -> oneof([a, b, 'A b', 'é', '日本', '', error, ok, 'None', 'True']).

-endif.
