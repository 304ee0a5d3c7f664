%% Python's `logging` in OTP's logger.
%% No domain is set: the default handler drops domains it does not know.
-module(py_logger).

-export([configure/1]).
-export([log/3]).

-export_type([options/0]).

-type options() :: #{level => logger:level() | all | none}.

-define(LEVELS, [debug, info, notice, warning, error, critical, alert, emergency]).

%% Sets the level below which Python's records are dropped before they cross; by default that of logger itself.
-spec configure(options()) -> ok | {error, term()}.
configure(Options) ->
    Level =
        case Options of
            #{level := Given} -> Given;
            #{} -> maps:get(level, logger:get_primary_config())
        end,
    lists:member(Level, [all, none | ?LEVELS]) orelse error({bad_option, {level, Level}}),
    ok = application:set_env(erlang_python, log_level, Level), %% for interpreters to come
    Contexts = [Pid || Pid <- py_context:list(), #{isolation := I} <- [py_context:info(Pid)], I =:= interpreter orelse I =:= node],
    Answers = [py:call('erlang._logging', configure, [Level])] ++
        [py:call(Context, 'erlang._logging', configure, [Level]) || Context <- Contexts],
    case [Error || {error, Reason} = Error <- Answers, Reason =/= noproc] of
        [] -> ok;
        [Error | _] -> Error
    end.

%% What the handler on the Python side calls.
-spec log(binary() | atom(), binary(), #{binary() => term()}) -> none.
log(Level, Message, Meta) ->
    Known = [{Key, Value} || {Name, Key} <- keys(), Value <- [maps:get(Name, Meta, none)], Value =/= none],
    Metadata = (maps:from_list(Known))#{pid => caller()},
    ok = logger:log(level(Level), "~ts", [Message], Metadata),
    none.

-spec keys() -> [{binary(), atom()}].
keys() ->
    [
        {<<"logger">>, python_logger},
        {<<"file">>, file},
        {<<"line">>, line},
        {<<"function">>, python_function},
        {<<"thread">>, python_thread},
        {<<"extra">>, extra},
        {<<"time">>, time}
    ].

-spec level(binary() | atom()) -> logger:level().
level(Name) when is_binary(Name) -> binary_to_existing_atom(Name);
level(Name) -> Name.

-spec caller() -> pid().
caller() ->
    case get('$callers') of
        [Caller | _] -> Caller;
        _ -> self()
    end.
