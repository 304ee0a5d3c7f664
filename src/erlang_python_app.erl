%% Starts Python in this OS process, once, and the supervisor above everything.
-module(erlang_python_app).
-behaviour(application).

-export([start/2]).
-export([prep_stop/1]).
-export([stop/1]).

-define(FLUSH_MS, 5000).
-define(END_MS, 3000).
-define(LOOK_MS, 10).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Args) ->
    maybe_start(py_env:executable()).

-spec maybe_start({ok, binary() | none} | {error, binary()}) -> {ok, pid()} | {error, term()}.
maybe_start({error, Why}) ->
    {error, Why};
maybe_start({ok, Executable}) ->
    %% The emulator ignores SIGCHLD; with that inherited, every subprocess of Python seems to return 0.
    ok = os:set_signal(sigchld, default),
    ok = py_nif:atom_quota(application:get_env(erlang_python, atom_quota, 10000)),
    ok = py_nif:grace(application:get_env(erlang_python, grace_ms, 250)),
    Base = #{python_path => py_env:python_path(), program => application:get_env(erlang_python, program, false)},
    Config =
        case Executable of
            none -> Base;
            _ -> Base#{executable => Executable}
        end,
    Ref = make_ref(),
    ok = py_nif:runtime_start(Ref, Config),
    receive
        {Ref, ok} -> erlang_python_sup:start_link();
        {Ref, {error, Why}} -> {error, {python, Why}}
    end.

%% While the contexts are still there: atexit callbacks may use them.
-spec prep_stop(State) -> State.
prep_stop(State) ->
    Ref = make_ref(),
    {Status, _} = init:get_status(),
    Last = Status =:= stopping orelse application:get_env(erlang_python, home) =/= undefined, %% see py_peer
    ok = py_nif:runtime_flush(Ref, Last),
    receive
        {Ref, ok} -> State
    after ?FLUSH_MS ->
        logger:warning("Python's threads and atexit callbacks did not end within ~b ms; left as they are", [?FLUSH_MS]),
        State
    end.

-spec stop(term()) -> ok.
stop(_State) ->
    await_interpreters(erlang:monotonic_time(millisecond) + ?END_MS).

%% The contexts are gone; interpreters of their own run their atexit callbacks, as the main one did before.
-spec await_interpreters(integer()) -> ok.
await_interpreters(Until) ->
    case py_nif:counters() of
        #{interpreters_ending := 0} ->
            ok;
        #{interpreters_ending := Ending} ->
            case erlang:monotonic_time(millisecond) < Until of
                true ->
                    timer:sleep(?LOOK_MS),
                    await_interpreters(Until);
                false ->
                    logger:warning("~b Python interpreters did not end within ~b ms; left as they are", [Ending, ?END_MS])
            end
    end.
