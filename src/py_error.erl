%% Errors as text.
-module(py_error).

-export([format/1]).

%% An error of `py` as Python would print it.
-spec format(py:error() | {error, py:error()}) -> unicode:chardata().
format({error, Error}) ->
    format(Error);
format({Class, #{message := Message} = Map}) when is_atom(Class) ->
    [chain(Map), traceback(Map), last_line(Class, Message, Map), erlang(Map), notes(Map), group(Map)];
format({Reason, abandoned}) ->
    [format(Reason), "; the code did not stop and its worker was replaced"];
format(timeout) ->
    "the deadline passed and the code was stopped";
format(cancelled) ->
    "the request was cancelled";
format(interrupted) ->
    "the request was interrupted";
format(stopped) ->
    "the context stopped";
format({deadlock, Chain}) ->
    io_lib:format("refused: the loop of that context stands still until chain ~b has gone on, which asks this", [Chain]);
format(overloaded) ->
    "the context's queue is full";
format(noproc) ->
    "there is no such context";
format(Other) ->
    io_lib:format("~tp", [Other]).

-spec chain(map()) -> unicode:chardata().
chain(#{cause := Cause}) ->
    [format(Cause), "\nThe above exception was the direct cause of the following exception:\n\n"];
chain(#{context := Context}) ->
    [format(Context), "\nDuring handling of the above exception, another exception occurred:\n\n"];
chain(_) ->
    "".

-spec traceback(map()) -> unicode:chardata().
traceback(#{traceback := [_ | _] = Frames}) ->
    ["Traceback (most recent call last):\n" | [frame(F) || F <- Frames]];
traceback(_) ->
    "".

-spec frame(map()) -> unicode:chardata().
frame(#{file := File, line := Line, function := Function} = Frame) ->
    [
        io_lib:format("  File \"~ts\", line ~b, in ~ts~n", [File, Line, Function])
        | case Frame of
            #{text := Text} when Text =/= <<>> -> ["    ", Text, $\n];
            _ -> ""
        end
    ];
frame(#{omitted := Count}) ->
    io_lib:format("  [~b frames omitted]~n", [Count]).

-spec last_line(atom(), binary(), map()) -> unicode:chardata().
last_line(Class, Message, Map) ->
    Name = maps:get(qualname, Map, maps:get(class, Map, atom_to_binary(Class))),
    Full =
        case Map of
            #{module := Module} when Module =/= <<"builtins">>, Module =/= <<"__main__">> -> [Module, $., Name];
            _ -> Name
        end,
    case Message of
        <<>> -> [Full, $\n];
        _ -> [Full, ": ", Message, $\n]
    end.

%% Where the exception is what an Erlang function raised: its stack.
-spec erlang(map()) -> unicode:chardata().
erlang(#{erlang := {Class, Reason, Stack}}) ->
    indent(erl_error:format_exception(Class, Reason, Stack, #{column => 3}));
erlang(_) ->
    "".

-spec notes(map()) -> unicode:chardata().
notes(#{notes := Notes}) -> [[Note, $\n] || Note <- Notes];
notes(_) -> "".

-spec group(map()) -> unicode:chardata().
group(#{exceptions := Exceptions}) ->
    [
        [io_lib:format("  +---------------- ~b ----------------~n", [N]), indent(format(E))]
     || {N, E} <- lists:zip(lists:seq(1, length(Exceptions)), Exceptions)
    ];
group(_) ->
    "".

-spec indent(unicode:chardata()) -> unicode:chardata().
indent(Text) ->
    [["  | ", Line, $\n] || Line <- string:split(string:trim(Text, trailing, "\n"), "\n", all)].
