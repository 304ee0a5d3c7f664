%% Cases of the other suites with an interpreter of its own for the default context.
-module(py_isolated_default_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 5}}].

all() ->
    [calls, types, coroutines, streams, callbacks, outputs, errors].

init_per_suite(Config) ->
    case py_isolation_SUITE:supported() of
        true ->
            _ = application:stop(erlang_python),
            _ = application:load(erlang_python),
            Before = application:get_env(erlang_python, default_context),
            ok = application:set_env(erlang_python, default_context, #{isolation => interpreter}),
            {ok, _} = application:ensure_all_started(erlang_python),
            [{default_context, Before} | Config];
        false ->
            {skip, "interpreters with their own GIL need Python 3.13"}
    end.

end_per_suite(Config) ->
    ok = application:stop(erlang_python),
    case proplists:get_value(default_context, Config) of
        {ok, Before} -> application:set_env(erlang_python, default_context, Before);
        undefined -> application:unset_env(erlang_python, default_context)
    end,
    {ok, _} = application:ensure_all_started(erlang_python),
    ok.

calls(Config) ->
    reused(py_call_SUITE, py_call_SUITE:all() -- [references_are_arguments], Config).

types(Config) ->
    Groups = [Cases || {_, _, Cases} <- py_types_SUITE:groups()],
    reused(py_types_SUITE, lists:append(Groups) -- [ref_of_another_interpreter, properties], Config).

%% Those whose own contexts would have to share a module with the default one are left out, here and below.
coroutines(Config) ->
    reused(py_async_SUITE, [
        coroutine_and_plain_function, awaitables_that_are_no_coroutines, exceptions_are_errors, not_a_call_at_all,
        task_semantics_inside, a_fresh_contextvars_context_each, cancel_runs_finally, cancel_of_what_is_done,
        await_timeout_cancels, await_timeout_leaves_no_message, deadline_stops_a_coroutine,
        deadline_stops_a_spinning_coroutine, deadline_stops_a_spinning_plain_function,
        deadline_stops_a_spinning_task_of_the_request, deadline_answers_when_the_loop_is_stuck,
        swallowed_cancel_is_abandoned, callers_death_cancels, callers_death_before_it_runs,
        interrupt_reaches_the_loop, sys_exit_and_interrupt_stay_inside, stop_called_by_user_code, gather_in_order,
        gather_reports_every_failure, gather_stops_at_the_first, gather_of_nothing, gather_of_nonsense,
        gather_with_concurrency, gather_deadline, gather_with_keywords_and_methods, map_failures,
        map_stops_at_deadline, callers_killed_by_the_hundred
    ], Config).

streams(Config) ->
    reused(py_stream_SUITE, [
        lists_of_all_kinds, list_of_an_expression, errors_of_lists, list_stops_at_its_deadline,
        messages_of_a_generator, messages_of_an_async_generator, nothing_at_all, error_after_items,
        error_of_the_call, item_without_a_term, credit_bounds_what_is_sent, credit_of_an_async_generator,
        credit_of_nothing_sends_nothing, ack_of_what_is_done, cancel_closes_the_generator,
        cancel_of_an_async_generator, cancel_of_a_parked_stream, cancel_of_a_blocked_generator,
        cancel_by_another_process, cancel_twice, cancel_takes_the_messages, owners_death_closes,
        owners_death_while_parked, exception_in_finally, generator_stops_itself,
        coroutines_go_on_beside_an_endless_async_stream, async_streams_share_the_loop, many_streams,
        forgotten_stream_is_closed, bad_options
    ], Config).

callbacks(Config) ->
    reused(py_callback_SUITE, py_callback_SUITE:all() -- [application_restarts_while_python_calls], Config).

outputs(Config) ->
    reused(py_output_SUITE, py_output_SUITE:all(), Config).

errors(Config) ->
    reused(py_errors_SUITE, py_errors_SUITE:all() -- [many_classes], Config).

%% All of them run, whatever fails.
reused(Suite, Cases, Config) ->
    Started = Suite:init_per_suite(Config),
    Failed = [{Case, Why} || Case <- Cases, is_atom(Case), {failed, Why} <- [one(Suite, Case, Started)]],
    Last = attempt(fun() -> Suite:end_per_suite(Started) end),
    ?assertEqual({[], ok}, {Failed, Last}).

one(Suite, Case, Config0) ->
    ct:log("~p:~p", [Suite, Case]),
    attempt(fun() ->
        Config = optional(Suite, init_per_testcase, Case, Config0),
        _ = Suite:Case(Config),
        _ = optional(Suite, end_per_testcase, Case, Config),
        ok
    end).

attempt(Fun) ->
    try
        Fun()
    catch
        Class:Reason:Stack -> {failed, {Class, Reason, Stack}}
    end.

optional(Suite, Function, Case, Config) ->
    case erlang:function_exported(Suite, Function, 2) of
        true -> Suite:Function(Case, Config);
        false -> Config
    end.
