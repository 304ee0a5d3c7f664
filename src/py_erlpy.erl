%% Runs the Python program that the launcher priv/erlpy was called for (c_src/erlpy, c_src/program.c), and nothing after it:
%% the program's end is the end of the VM.
-module(py_erlpy).

-export([start/0]).

%% For the launcher: `-s py_erlpy`.
-spec start() -> pid().
start() ->
    spawn(fun() ->
        try
            run()
        catch
            Class:Reason:Stack -> fail(io_lib:format("~tp:~tp at ~tp", [Class, Reason, Stack]))
        end
    end).

-spec run() -> ok.
run() ->
    Self = os:getenv("ERLPY_SELF"),
    ok = own_environment(os:getenv("ERLPY_ERTS")),
    ok = application:load(erlang_python),
    ok = application:set_env(erlang_python, program, true),
    %% The program is the owner of this VM.
    ok = application:set_env(erlang_python, callback_apply, application:get_env(erlang_python, callback_apply, all)),
    ok = use_environment_of(Self),
    case py_env:executable() of
        {ok, _} -> ok;
        {error, Unfit} -> fail(Unfit)
    end,
    case application:ensure_all_started(erlang_python) of
        {ok, _} -> py_nif:program_run();
        {error, Why} -> fail(io_lib:format("~tp", [Why]))
    end.

%% What ports inherit: as under erl, without what the launcher needs. (Python's environment is the C library's, another one.)
-spec own_environment(string()) -> ok.
own_environment(Erts) ->
    Names = [hd(string:split(Entry, "=")) || Entry <- os:getenv(), lists:prefix("ERLPY_", Entry)],
    ok = lists:foreach(fun os:unsetenv/1, Names),
    true = os:putenv("BINDIR", Erts),
    true = os:putenv("PATH", Erts ++ ":" ++ os:getenv("PATH", "")),
    ok.

%% A launcher that lies in a virtual environment's bin (as a link) means that one, as with python.
-spec use_environment_of(file:filename()) -> ok.
use_environment_of(Self) ->
    Root = filename:dirname(filename:dirname(Self)),
    case filelib:is_regular(filename:join(Root, "pyvenv.cfg")) of
        true -> application:set_env(erlang_python, python, Root);
        false -> ok
    end.

-spec fail(unicode:chardata()) -> no_return().
fail(Text) ->
    Line = unicode:characters_to_binary(["erlpy: ", Text, "\n"]),
    %% Without the ports, whose flushing can keep a VM that has hardly started from halting.
    _ =
        case file:open("/dev/stderr", [raw, append]) of
            {ok, Stderr} -> file:write(Stderr, Line);
            {error, _} -> erlang:display_string(binary_to_list(Line))
        end,
    erlang:halt(1, [{flush, false}]).
