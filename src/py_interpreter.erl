%% Python interpreters beside the main one, each with a GIL of its own and one context; see docs/contexts.md. They end with
%% their context, when nothing keeps them.
-module(py_interpreter).

-export([start/1]).
-export([ask/1]).
-export([stacks/0]).
-export([memory_stats/0]).
-export([admin_context/0]).

-define(START_MS, 60000).
-define(ASK_MS, 2000).

%% For a context of that name, which the caller is to be. An error is the text of what went wrong.
-spec start(atom()) -> {ok, py_nif:interpreter()} | {error, term()}.
start(Name) ->
    Label =
        case Name of
            undefined -> pid_to_list(self());
            _ -> atom_to_binary(Name)
        end,
    Ref = make_ref(),
    case py_nif:interpreter_start(Ref, iolist_to_binary(["context ", Label])) of
        ok ->
            receive
                {Ref, Result} -> Result
            after ?START_MS -> {error, timeout}
            end;
        Error ->
            Error
    end.

%% What a function of erlang._admin says in each of them, with its context; {error, timeout} where something holds the GIL.
-spec ask(atom()) -> [{pid(), Name :: atom(), py:result()}].
ask(Function) ->
    Self = self(),
    Asked = [
        {Pid, Name, spawn_monitor(fun() -> Self ! {self(), ask(Handle, Function)} end)}
     || Pid <- py_context:list(),
        {ok, Handle, Name} <- [py_context_registry:lookup(Pid)],
        is_reference(Handle),
        #{isolation := interpreter} <- [py_nif:context_info(Handle)]
    ],
    [
        receive
            {Asker, Answer} ->
                true = erlang:demonitor(Monitor, [flush]),
                {Pid, Name, Answer};
            {'DOWN', Monitor, process, Asker, _} ->
                {Pid, Name, {error, noproc}}
        end
     || {Pid, Name, {Asker, Monitor}} <- Asked
    ].

%% In a process of its own, where a late answer may come.
-spec ask(py_nif:context(), atom()) -> py:result().
ask(Handle, Function) ->
    Ref = make_ref(),
    case py_nif:interpreter_ask(Handle, Ref, Function) of
        ok ->
            receive
                {Ref, Answer} -> Answer
            after ?ASK_MS -> {error, timeout}
            end;
        noproc ->
            {error, noproc}
    end.

-spec stacks() -> py:result().
stacks() ->
    case main(stacks) of
        {ok, Main} -> {ok, lists:append([Main | [stacks(Answer) || Answer <- ask(stacks)]])};
        Error -> Error
    end.

-spec stacks({pid(), atom(), py:result()}) -> [{binary(), [binary()]}].
stacks({Pid, Name, Answer}) ->
    Shown =
        case Name of
            undefined -> Pid;
            _ -> Name
        end,
    Context = unicode:characters_to_binary(io_lib:format("~tp", [Shown])),
    case Answer of
        {ok, Stacks} -> [{<<Context/binary, ": ", Thread/binary>>, Lines} || {Thread, Lines} <- Stacks];
        {error, _} -> [{Context, [<<"no answer: its GIL is held">>]}]
    end.

-spec memory_stats() -> py:result().
memory_stats() ->
    case main(memory_stats) of
        {ok, Stats} ->
            #{interpreters := Count, interpreters_left := Left} = py_nif:counters(),
            {ok, Stats#{<<"interpreters">> => Count, <<"interpreters_left">> => Left}};
        Error ->
            Error
    end.

-spec main(atom()) -> py:result().
main(Function) ->
    py:call(admin_context(), 'erlang._admin', Function, []).

%% A context that nobody else uses: an answer also comes when every other worker is busy.
-spec admin_context() -> pid().
admin_context() ->
    case py_context:find(admin) of
        undefined ->
            case py_context:start(#{name => admin, spin_us => 0}) of
                {ok, Context} -> Context;
                {error, {already_started, Context}} -> Context
            end;
        Context ->
            Context
    end.
