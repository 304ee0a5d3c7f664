%% Where Python's output goes: standard output to the group leader of the process that asked, standard error to
%% `standard_error`, input from that group leader. Each function runs in the process of a callback, so the Python side waits
%% until the device has taken the text: a flood is slowed down by its device.
-module(py_output).

-export([write/2]).
-export([read_line/0]).
-export([isatty/0]).

-spec write(binary(), binary()) -> none.
write(<<"stderr">>, Text) ->
    put_chars(standard_error, Text);
write(<<"stdout">>, Text) ->
    put_chars(group_leader_of_caller(), Text).

%% One line with its newline, or an empty binary at the end of the input.
-spec read_line() -> binary().
read_line() ->
    case io:get_line(group_leader_of_caller(), "") of
        Line when is_list(Line); is_binary(Line) -> unicode:characters_to_binary(Line);
        _ -> <<>>
    end.

-spec isatty() -> boolean().
isatty() ->
    case io:getopts(group_leader_of_caller()) of
        Options when is_list(Options) -> proplists:get_value(terminal, Options, false) =:= true;
        _ -> false
    end.

%% A device that is gone, or refuses the text, gives way to the node's own.
-spec put_chars(io:device(), binary()) -> none.
put_chars(Device, Text) ->
    try
        io:put_chars(Device, Text)
    catch
        error:_ -> io:put_chars(user, Text)
    end,
    none.

-spec group_leader_of_caller() -> io:device().
group_leader_of_caller() ->
    case get('$callers') of
        [_ | _] = Callers ->
            %% The process that asked first: the others are functions that Python called.
            case process_info(lists:last(Callers), group_leader) of
                {group_leader, Leader} -> Leader;
                undefined -> user
            end;
        _ ->
            user
    end.
