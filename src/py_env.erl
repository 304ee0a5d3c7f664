%% Where things are: priv, the Python package, and the Python executable whose prefix and site-packages are used.
-module(py_env).

-export([priv_dir/0]).
-export([python_path/0]).
-export([executable/0]).

%% The application's priv directory, also when the application is not loaded (a module on the code path is enough).
-spec priv_dir() -> file:filename().
priv_dir() ->
    case code:priv_dir(erlang_python) of
        {error, bad_name} ->
            Ebin = filename:dirname(code:which(?MODULE)),
            filename:join(filename:dirname(Ebin), "priv");
        Dir ->
            Dir
    end.

%% The directory that holds the package `erlang`.
-spec python_path() -> binary().
python_path() ->
    to_binary(filename:join(priv_dir(), "python")).

%% The Python executable to run as: it decides sys.prefix, site-packages and sys.executable. The application's `python`
%% (an executable, or the directory of a virtual environment), else $VIRTUAL_ENV, else the Python the NIF was built
%% with if it is still there, else none: libpython then finds its own prefix. An error names what does not fit.
-spec executable() -> {ok, binary() | none} | {error, binary()}.
executable() ->
    Built = py_nif:build_python(),
    case {application:get_env(erlang_python, python), os:getenv("VIRTUAL_ENV")} of
        {{ok, Named}, _} -> check(to_binary(Named), "the application's environment (python)");
        {undefined, Venv} when is_list(Venv), Venv =/= "" -> check(to_binary(Venv), "VIRTUAL_ENV");
        _ -> {ok, case filelib:is_regular(Built) of true -> Built; false -> none end}
    end.

-spec check(binary(), string()) -> {ok, binary()} | {error, binary()}.
check(Path, From) ->
    Executable =
        case filelib:is_dir(Path) of
            true -> filename:join([Path, "bin", "python"]);
            false -> Path
        end,
    case filelib:is_regular(Executable) of
        false -> {error, explain("~ts, named by ~ts, is not there", [Executable, From])};
        true -> check_version(Executable, From)
    end.

%% libpython does not notice an environment of another minor version: its packages would silently not be found.
-spec check_version(binary(), string()) -> {ok, binary()} | {error, binary()}.
check_version(Executable, From) ->
    [Major, Minor | _] = binary:split(py_nif:python_version(), <<".">>, [global]),
    Wanted = <<Major/binary, $., Minor/binary>>,
    case venv_version(Executable) of
        {ok, Version} when Version =/= Wanted ->
            {error, explain("~ts, named by ~ts, is of Python ~ts; this build embeds ~ts", [Executable, From, Version, Wanted])};
        _ ->
            {ok, Executable}
    end.

-spec venv_version(binary()) -> {ok, binary()} | unknown.
venv_version(Executable) ->
    Root = filename:dirname(filename:dirname(Executable)),
    case file:read_file(filename:join(Root, "pyvenv.cfg")) of
        {ok, Config} ->
            case re:run(Config, "^version(?:_info)?\\s*=\\s*(\\d+\\.\\d+)", [multiline, {capture, all_but_first, binary}]) of
                {match, [Version]} -> {ok, Version};
                nomatch -> unknown
            end;
        {error, _} ->
            unknown
    end.

-spec explain(io:format(), [term()]) -> binary().
explain(Format, Args) ->
    unicode:characters_to_binary(io_lib:format(Format, Args)).

-spec to_binary(file:name_all()) -> binary().
to_binary(Name) when is_binary(Name) -> Name;
to_binary(Name) -> unicode:characters_to_binary(Name, unicode, file:native_name_encoding()).
