%% Refs between nodes. Where the object is, {py_ref, Type, Ref} is kept in the table of py_node under {{Relay, Id}, ...};
%% on its way it is {'$py_far', Type, Id}; where it is used it is {py_ref, Type, Far}, and when nobody has that any more,
%% its relay hears of it (c_src/far.h). Terms are looked through only while there are refs.
-module(py_far).

-export([hold/3]).
-export([wrap/2]).
-export([unwrap/2]).
-export([found/2]).
-export([drop/2]).
-export([drop_all/1]).

-export_type([id/0]).

-type id() :: pos_integer().
-type refused() :: {refused, {error, py:error()}}.

%% Where the objects are: keeps what is in the term for the relay, with numbers above First.
-spec hold(Term, pid(), id()) -> {Term, Any :: boolean()}.
hold(Term, Relay, First) ->
    case py_nif:ref_counts() of
        {0, _} -> {Term, false};
        _ -> replaced(Term, fun(Ref) -> hold_one(Ref, Relay, First) end)
    end.

-spec hold_one(py:ref(), pid(), id()) -> tuple().
hold_one({py_ref, Type, _} = Held, Relay, First) ->
    case is_here(Held) of
        true ->
            Id = ets:update_counter(py_node, {held, Relay}, {2, 1}, {{held, Relay}, First}),
            true = ets:insert(py_node, {{Relay, Id}, Held}),
            {'$py_far', Type, Id};
        false ->
            Held
    end;
hold_one(Other, _Relay, _First) ->
    Other.

%% In the relay: makes refs of what came.
-spec wrap(Term, pid()) -> Term.
wrap(Term, Relay) ->
    {Wrapped, _} = replaced(Term, fun
        ({'$py_far', Type, Id}) -> {py_ref, Type, py_nif:far_new(Relay, Id)};
        (Other) -> Other
    end),
    Wrapped.

%% On the way to that relay's node. The term itself must live until it is sent.
-spec unwrap(Term, pid()) -> {Term, Any :: boolean()} | refused().
unwrap(Term, Relay) ->
    case py_nif:ref_counts() of
        {0, 0} ->
            {Term, false};
        _ ->
            try
                replaced(Term, fun(Ref) -> unwrap_one(Ref, Relay) end)
            catch
                throw:{refused, _} = Refused -> Refused
            end
    end.

-spec unwrap_one(tuple(), pid()) -> tuple().
unwrap_one({py_ref, Type, Ref} = Held, Relay) ->
    case py_nif:far_id(Ref) of
        {Relay, Id} ->
            {'$py_far', Type, Id};
        none ->
            case is_here(Held) of
                true -> refuse(<<"this reference belongs to Python on another node and cannot be used there">>);
                false -> Held
            end;
        _ ->
            refuse(<<"this reference belongs to a context on another node">>)
    end;
unwrap_one(Other, _Relay) ->
    Other.

-spec is_here(py:ref()) -> boolean().
is_here(Ref) ->
    try py_nif:ref_context(Ref) of
        _ -> true
    catch
        error:badarg -> false
    end.

%% Back where the objects are.
-spec found(Term, pid()) -> {ok, Term} | refused().
found(Term, Relay) ->
    try
        {Found, _} = replaced(Term, fun
            ({'$py_far', _, Id}) -> find(Relay, Id);
            (Other) -> Other
        end),
        {ok, Found}
    catch
        throw:{refused, _} = Refused -> Refused
    end.

-spec find(pid(), id()) -> py:ref().
find(Relay, Id) ->
    case ets:lookup(py_node, {Relay, Id}) of
        [{_, Ref}] -> Ref;
        [] -> refuse(<<"the object of this reference is gone with its node">>)
    end.

-spec drop(pid(), id()) -> ok.
drop(Relay, Id) ->
    true = ets:delete(py_node, {Relay, Id}),
    ok.

-spec drop_all(pid()) -> ok.
drop_all(Relay) ->
    true = ets:match_delete(py_node, {{Relay, '_'}, '_'}),
    true = ets:delete(py_node, {held, Relay}),
    ok.

-spec refuse(binary()) -> no_return().
refuse(Message) ->
    Map = #{class => <<"ValueError">>, module => <<"builtins">>, message => Message, traceback => []},
    throw({refused, {error, {'ValueError', Map}}}).

%% ---- through a term ----

-spec replaced(Term, fun((tuple()) -> tuple())) -> {Term, boolean()}.
replaced(Term, Fun) ->
    case contains(Term) of
        true -> {replace(Term, Fun), true};
        false -> {Term, false}
    end.

-define(IS_REF(Tag, Type, Id), Tag =:= py_ref, is_reference(Id); Tag =:= '$py_far', is_binary(Type)).

-spec contains(term()) -> boolean().
contains({Tag, Type, Id}) when ?IS_REF(Tag, Type, Id) -> true;
contains([Head | Tail]) -> contains(Head) orelse contains(Tail);
contains(Tuple) when is_tuple(Tuple) -> contains(tuple_to_list(Tuple));
contains(Map) when is_map(Map) -> contains(maps:to_list(Map));
contains(_) -> false.

-spec replace(Term, fun((tuple()) -> tuple())) -> Term.
replace({Tag, Type, Id} = Ref, Fun) when ?IS_REF(Tag, Type, Id) -> Fun(Ref);
replace([Head | Tail], Fun) -> [replace(Head, Fun) | replace(Tail, Fun)];
replace(Tuple, Fun) when is_tuple(Tuple) -> list_to_tuple(replace(tuple_to_list(Tuple), Fun));
replace(Map, Fun) when is_map(Map) -> maps:from_list(replace(maps:to_list(Map), Fun));
replace(Term, _Fun) -> Term.
