%% py:call and its like: how a function is named, found and called, and what comes back.
-module(py_call_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [
        call_with_all_shapes_of_arguments,
        context_comes_first,
        names_are_atoms_or_binaries,
        dotted_functions,
        submodules_are_imported,
        keyword_arguments,
        keyword_twice_is_an_error,
        many_arguments,
        methods_of_references,
        a_method_named_call_is_callable,
        getattr_and_to_term,
        references_are_arguments,
        eval_with_and_without_names,
        eval_names_are_binaries_too,
        eval_with_leading_space,
        source_that_comes_again,
        exec_defines_for_all_processes,
        exec_of_several_lines_and_errors,
        cast_runs_without_reply,
        spawn_call_and_await,
        await_in_any_order,
        await_twice_finds_nothing,
        await_never_misses_a_reply,
        await_with_timeout_leaves_no_message,
        error_shapes,
        format_error_prints_as_python,
        bad_arguments_are_clear,
        coroutine_is_refused_with_a_hint,
        patched_function_is_called,
        rebound_module_is_called,
        reload_runs_new_code,
        half_imported_module_is_waited_for,
        missing_attribute_of_a_nameless_module,
        gc_and_memory_stats,
        version_and_info,
        stacks_while_running,
        unicode_and_long_names
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

end_per_testcase(_Case, _Config) ->
    py_test_lib:no_messages().

call_with_all_shapes_of_arguments(_) ->
    {ok, 4.0} = py:call(math, sqrt, [16.0]),
    {ok, 4.0} = py:call(math, sqrt, [16.0], #{}),
    {ok, 4.0} = py:call(math, sqrt, [16.0], #{}, infinity),
    {ok, 4.0} = py:call(math, sqrt, [16.0], #{}, 1000),
    {ok, 4.0} = py:call(math, sqrt, [16.0], #{}, #{timeout => 1000}),
    {ok, 5} = py:call(builtins, len, [<<"hello">>]),
    {ok, <<>>} = py:call(builtins, str, []).

context_comes_first(_) ->
    C = py_test_lib:context(#{}),
    {ok, 4.0} = py:call(C, math, sqrt, [16.0]),
    {ok, 4.0} = py:call(C, math, sqrt, [16.0], #{}),
    {ok, 4.0} = py:call(C, math, sqrt, [16.0], #{}, 1000),
    {ok, 2} = py:eval(C, <<"1 + 1">>),
    {ok, 3} = py:eval(C, <<"x + 1">>, #{x => 2}),
    {ok, 3} = py:eval(C, <<"x + 1">>, #{x => 2}, 1000),
    ok = py:exec(C, <<"here = 1">>),
    ok = py:exec(C, <<"here += 1">>, 1000),
    {ok, 2} = py:eval(C, <<"here">>),
    {error, {'NameError', _}} = py:eval(<<"here">>),
    ok = py:cast(C, builtins, len, [<<>>]),
    ok = py:cast(C, builtins, dict, [], #{a => 1}),
    {ok, #{<<"a">> := 1}} = py:await(py:spawn_call(C, builtins, dict, [], #{a => 1})),
    {ok, 0} = py:await(py:spawn_call(C, builtins, len, [<<>>])),
    py_test_lib:drop(C),
    {error, noproc} = py:call(C, math, sqrt, [16.0]),
    {error, noproc} = py:eval(C, <<"1">>),
    {error, noproc} = py:exec(C, <<"1">>),
    {error, noproc} = py:cast(C, math, sqrt, [16.0]),
    {error, noproc} = py:interrupt(C),
    {error, noproc} = py:await(py:spawn_call(C, math, sqrt, [16.0])).

names_are_atoms_or_binaries(_) ->
    {ok, 4.0} = py:call(<<"math">>, sqrt, [16]),
    {ok, 4.0} = py:call(math, <<"sqrt">>, [16]),
    {ok, 4.0} = py:call(<<"math">>, <<"sqrt">>, [16]).

dotted_functions(_) ->
    {ok, <<"a/b">>} = py:call(os, 'path.join', [<<"a">>, <<"b">>]),
    {ok, <<"a/b">>} = py:call('os.path', join, [<<"a">>, <<"b">>]),
    {ok, <<"X">>} = py:call(builtins, 'str.upper', [<<"x">>]),
    {error, {'AttributeError', #{message := M}}} = py:call(os, 'path.nothing', []),
    ?assertMatch({_, _}, binary:match(M, <<"nothing">>)),
    {error, {'AttributeError', _}} = py:call(os, 'path..join', []),
    {error, {'AttributeError', _}} = py:call(os, '', []).

submodules_are_imported(_) ->
    {ok, _} = py:call(xml, 'etree.ElementTree.fromstring', [<<"<a/>">>]),
    {ok, _} = py:call('email.mime', 'text.MIMEText', [<<"x">>]),
    {error, {'AttributeError', _}} = py:call(xml, 'etree.NotThere', []),
    {error, {'ModuleNotFoundError', _}} = py:call('xml.not_there', f, []),
    {error, {'ValueError', _}} = py:call('', f, []).

keyword_arguments(_) ->
    {ok, #{<<"a">> := 1, <<"b">> := 2}} = py:call(builtins, dict, [], #{a => 1, <<"b">> => 2}),
    {ok, <<"1-2">>} = py:call(builtins, 'str.format', [<<"{}-{k}">>, 1], #{k => 2}),
    ok = py:exec(<<"def kw(a, b=2, *, c=3): return (a, b, c)">>),
    {ok, {1, 2, 4}} = py:call('__main__', kw, [1], #{c => 4}),
    {error, {'TypeError', _}} = py:call('__main__', kw, [1], #{d => 4}),
    {error, {'TypeError', #{message := M}}} = py:call('__main__', kw, [1], #{<<"not one">> => 4}),
    ?assertMatch({_, _}, binary:match(M, <<"identifier">>)),
    {error, {'TypeError', _}} = py:call('__main__', kw, [1], #{7 => 4}),
    ok = py:exec(<<"def many(**kw): return sorted(kw.items())">>),
    Many = maps:from_list([{list_to_binary("k" ++ integer_to_list(I)), I} || I <- lists:seq(1, 500)]),
    {ok, Items} = py:call('__main__', many, [], Many),
    ?assertEqual(lists:sort(maps:to_list(Many)), Items).

keyword_twice_is_an_error(_) ->
    {error, {'TypeError', #{message := M}}} = py:call(builtins, dict, [], #{a => 1, <<"a">> => 2}),
    ?assertMatch({_, _}, binary:match(M, <<"'a'">>)).

many_arguments(_) ->
    ok = py:exec(<<"def count(*args): return len(args), sum(args)">>),
    [
        {ok, {N, S}} = py:call('__main__', count, lists:seq(1, N))
     || N <- [0, 1, 7, 8, 9, 1000, 100000], S <- [N * (N + 1) div 2]
    ],
    ok.

methods_of_references(_) ->
    {ok, D} = py:call(collections, deque, [[1, 2, 3]]),
    {ok, none} = py:call(D, append, [4]),
    {ok, none} = py:call_method(D, append, [5]),
    {ok, none} = py:call_method(D, extend, [[6]], #{}),
    {ok, 6} = py:call_method(D, pop, []),
    {ok, 5} = py:call(builtins, len, [D]),
    {ok, none} = py:call_method(py:context(), D, append, [7]),
    {error, {'AttributeError', _}} = py:call_method(D, nothing, []),
    {py_ref, <<"collections.deque">>, _} = D,
    true = py:is_ref(D),
    false = py:is_ref({py_ref, a, b}),
    false = py:is_ref(x).

a_method_named_call_is_callable(_) ->
    ok = py:exec(<<"class Model:\n"
                   "    def call(self, x): return 'call', x\n"
                   "    def __call__(self, x): return '__call__', x\n">>),
    {ok, M} = py:call('__main__', 'Model', []),
    {ok, {<<"call">>, 1}} = py:call_method(M, call, [1]),
    {ok, {<<"__call__">>, 1}} = py:call_method(M, '__call__', [1]).

getattr_and_to_term(_) ->
    {ok, F} = py:call(fractions, 'Fraction', [3, 4]),
    {ok, R} = py:call(types, 'SimpleNamespace', [], #{x => 1, f => F}),
    {ok, 1} = py:getattr(R, x),
    {ok, 1} = py:getattr(py:context(), R, <<"x">>),
    {error, {'AttributeError', _}} = py:getattr(R, y),
    {ok, D} = py:call(collections, deque, [[1, 2]]),
    {ok, [1, 2]} = py:to_term(D),
    {ok, [1, 2]} = py:to_term(py:context(), D),
    {ok, #{}} = py:to_term(R).

references_are_arguments(_) ->
    {ok, O} = py:call(builtins, object, []),
    {ok, true} = py:eval(<<"a is b[0] and a is c['k']">>, #{a => O, b => [O], c => #{<<"k">> => O}}),
    C = py_test_lib:context(#{}),
    {ok, true} = py:eval(C, <<"a is b">>, #{a => O, b => O}),
    py_test_lib:drop(C),
    {ok, true} = py:eval(<<"a is b">>, #{a => O, b => O}).

eval_with_and_without_names(_) ->
    {ok, 2} = py:eval(<<"1 + 1">>),
    {ok, 2} = py:eval("1 + 1"),
    {ok, 2} = py:eval(["1 ", <<"+ ">>, "1"]),
    {ok, 6} = py:eval(<<"x * 2">>, #{x => 3}),
    {ok, [4, 5]} = py:eval(<<"[y + x for y in z]">>, #{x => 3, z => [1, 2]}),
    {ok, [3]} = py:eval(<<"(lambda: [x for _ in (1,)])()">>, #{x => 3}),
    {error, {'NameError', _}} = py:eval(<<"x_of_before">>),
    {ok, _} = py:eval(<<"(x_of_before := x)">>, #{x => 3}),
    {error, {'NameError', _}} = py:eval(<<"x_of_before">>),
    {error, {'SyntaxError', #{syntax := #{line := 1}}}} = py:eval(<<"1 +">>),
    {error, {'SyntaxError', _}} = py:eval(<<"x = 1">>),
    {error, {'SyntaxError', _}} = py:eval(<<"1 ", 0, " 2">>),
    {error, {'SyntaxError', _}} = py:eval(<<"'", 255, "'">>),
    {ok, <<"été"/utf8>>} = py:eval(<<"'été'"/utf8>>).

%% What is compiled once is not computed once, and sources do not take one another's place.
source_that_comes_again(_) ->
    [
        begin
            ok = py:exec(["again = ", integer_to_binary(N rem 3)]),
            Expected = N rem 3,
            {ok, Expected} = py:eval(<<"again">>),
            {ok, N} = py:eval(<<"again">>, #{again => N}),
            ok = py:exec(<<"again">>),
            {ok, [Expected]} = py:eval(["[again", lists:duplicate(2000, $\s), "]"]),
            {ok, N} = py:eval(integer_to_binary(N))
        end
     || N <- lists:seq(1, 1500)
    ],
    {error, {'SyntaxError', _}} = py:eval(<<"again = 1">>),
    {error, {'SyntaxError', _}} = py:eval(<<"again = 1">>),
    {ok, One} = py:eval(<<"lambda: again">>),
    {ok, Two} = py:eval(<<"lambda: again">>, #{again => two}),
    {ok, 0} = py:call_method(One, '__call__', []),
    {ok, two} = py:call_method(Two, '__call__', []).

eval_names_are_binaries_too(_) ->
    {ok, 3} = py:eval(<<"x + y">>, #{<<"x">> => 1, y => 2}),
    C = py_test_lib:context(#{binaries => bytes}),
    {ok, {true, true}} = py:eval(C, <<"(x == b'v', y == b'w')">>, #{<<"x">> => <<"v">>, y => <<"w">>}),
    {error, {'TypeError', _}} = py:eval(C, <<"1">>, #{7 => 1}),
    py_test_lib:drop(C).

eval_with_leading_space(_) ->
    {ok, 2} = py:eval(<<"  \t1 + 1\n">>).

exec_defines_for_all_processes(_) ->
    ok = py:exec(<<"def inc(x): return x + 1">>),
    Results = py_test_lib:parallel(50, fun(I) -> py:call('__main__', inc, [I]) end),
    ?assertEqual([{ok, I + 1} || I <- lists:seq(1, 50)], Results),
    {ok, true} = py:eval(<<"__import__('sys').modules['__main__'].inc is inc">>).

exec_of_several_lines_and_errors(_) ->
    ok = py:exec(["import math\n", "z = math.pi\n", "for i in range(3):\n    z += 1\n"]),
    {ok, true} = py:eval(<<"6 < z < 7 and i == 2">>),
    {error, {'SyntaxError', #{syntax := #{line := 2}}}} = py:exec(<<"x = 1\nif\n">>),
    {error, {'ZeroDivisionError', #{traceback := T}}} = py:exec(<<"\n\n1/0\n">>),
    #{line := 3, file := <<"<exec>">>, function := <<"<module>">>} = lists:last(T).

cast_runs_without_reply(_) ->
    ok = py:exec(<<"import queue\ncasts = queue.Queue()\ndef note(*a, **k): casts.put((a, k))">>),
    ok = py:cast('__main__', note, [1], #{k => 2}),
    ok = py:cast('__main__', note, [2]),
    ok = py:cast('__main__', no_such_function, []),
    {ok, Got} = py:eval(<<"[casts.get(timeout=60) for _ in range(2)]">>),
    ?assertEqual([{{1}, #{<<"k">> => 2}}, {{2}, #{}}], lists:sort(Got)).

spawn_call_and_await(_) ->
    Refs = [py:spawn_call(math, sqrt, [I * I]) || I <- lists:seq(1, 100)],
    ?assertEqual([{ok, float(I)} || I <- lists:seq(1, 100)], [py:await(R) || R <- Refs]),
    {error, {'ValueError', _}} = py:await(py:spawn_call(math, sqrt, [-1])).

await_in_any_order(_) ->
    Refs = [{I, py:spawn_call(builtins, abs, [-I])} || I <- lists:seq(1, 100)],
    [{ok, I} = py:await(R) || {I, R} <- lists:reverse(Refs)],
    ok.

await_twice_finds_nothing(_) ->
    [
        begin
            Ref = py:spawn_call(builtins, abs, [-1]),
            {ok, 1} = py:await(Ref, infinity),
            {error, noproc} = py:await(Ref, Timeout),
            {error, noproc} = py:await(make_ref(), Timeout)
        end
     || Timeout <- [0, 60000, infinity]
    ].

%% What says that nothing will come must not say it of what is on its way.
await_never_misses_a_reply(_) ->
    py_test_lib:parallel(8, fun(_) ->
        [
            case py:await(py:spawn_call(builtins, abs, [-I]), I rem 2) of
                {ok, I} -> ok;
                {error, timeout} -> ok
            end
         || I <- lists:seq(1, 5000)
        ],
        py_test_lib:no_messages()
    end).

await_with_timeout_leaves_no_message(_) ->
    ok = py:exec(<<"def forever():\n    while True: pass\n">>),
    Refs = [py:spawn_call('__main__', forever, []) || _ <- lists:seq(1, 4)],
    [{error, timeout} = py:await(R, 1) || R <- Refs],
    Quick = [py:spawn_call(builtins, abs, [-I]) || I <- lists:seq(1, 200)],
    [case py:await(R, 0) of {ok, _} -> ok; {error, timeout} -> ok end || R <- Quick],
    py_test_lib:eventually(fun() -> #{requests := 0} = py_nif:counters() end),
    py_test_lib:no_messages().

error_shapes(_) ->
    {error, {'ValueError', #{message := <<"invalid literal for int() with base 10: 'x'">>, class := <<"ValueError">>,
        module := <<"builtins">>, traceback := []}}} = py:call(builtins, int, [<<"x">>]),
    ok = py:exec(<<"def deep(n): return deep(n - 1) if n else 1 / 0">>),
    {error, {'ZeroDivisionError', #{traceback := T}}} = py:call('__main__', deep, [3]),
    [#{function := <<"deep">>, line := 1, file := <<"<exec>">>} | _] = T,
    4 = length(T),
    {error, {'KeyError', #{message := <<"'k'">>}}} = py:eval(<<"{}['k']">>),
    {error, {'JSONDecodeError', #{module := <<"json.decoder">>}}} = py:call(json, loads, [<<"{">>]),
    {error, {'TypeError', _}} = py:call('__main__', '__name__', []).

format_error_prints_as_python(_) ->
    ok = py:exec(<<"def raising():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n"
                   "        raise KeyError('k') from e\n">>),
    Error = py:call('__main__', raising, []),
    Text = unicode:characters_to_binary(py:format_error(Error)),
    {ok, Python} = py:eval(<<"__import__('subprocess').run([__import__('sys').executable, '-c', s], "
        "capture_output=True, text=True).stderr">>,
        #{s => <<"def raising():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n"
                 "        raise KeyError('k') from e\nraising()\n">>}),
    ?assertEqual(lines(Python), lines(Text)),
    [
        ?assertMatch([_ | _], unicode:characters_to_list(py:format_error(E)))
     || E <- [timeout, {timeout, abandoned}, cancelled, interrupted, stopped, overloaded, noproc, system_limit,
            {error, timeout}]
    ].

%% What must agree with Python's own: not the frames of the command, nor the underlining.
lines(Text) ->
    [L || L <- binary:split(Text, <<"\n">>, [global]), L =/= <<>>,
        re:run(L, "^Traceback|^[A-Z]|^The above", [{capture, none}]) =:= match].

bad_arguments_are_clear(_) ->
    ?assertError(function_clause, py:call(math, sqrt, 16)),
    ?assertError({bad_timeout, -1}, py:call(math, sqrt, [16], #{}, -1)),
    ?assertError({bad_timeout, soon}, py:call(math, sqrt, [16], #{}, soon)),
    {ok, 4.0} = py:call(math, sqrt, [16], #{}, 1 bsl 100),
    {error, {'TypeError', #{message := M1}}} = py:call(math, sqrt, [16 | 17]),
    ?assertMatch({_, _}, binary:match(M1, <<"proper list">>)),
    {error, {'TypeError', #{message := M2}}} = py:call(17, sqrt, [16]),
    ?assertMatch({_, _}, binary:match(M2, <<"module">>)),
    {error, {'TypeError', #{message := M3}}} = py:call(math, 17, [16]),
    ?assertMatch({_, _}, binary:match(M3, <<"function">>)),
    {error, {'TypeError', _}} = py:call({py_ref, <<"x">>, make_ref()}, f, []),
    {error, {'TypeError', _}} = py:eval(17),
    ?assertError({bad_option, tiemout}, py:call(math, sqrt, [16], #{}, #{tiemout => 5})).

coroutine_is_refused_with_a_hint(_) ->
    ok = py:exec(<<"async def co(): return 1">>),
    {error, {'TypeError', #{message := M}}} = py:call('__main__', co, []),
    ?assertMatch({_, _}, binary:match(M, <<"py:async_call">>)).

patched_function_is_called(Config) ->
    M = py_test_lib:module(Config, "patched_mod", "def f(): return 'old'\n"),
    {ok, <<"old">>} = py:call(M, f, []),
    {ok, _} = py:eval(<<"setattr(m, 'f', lambda: 'new')">>, #{m => import(M)}),
    {ok, <<"new">>} = py:call(M, f, []),
    {ok, _} = py:eval(<<"delattr(m, 'f')">>, #{m => import(M)}),
    {error, {'AttributeError', _}} = py:call(M, f, []).

import(M) ->
    {ok, Ref} = py:call(importlib, import_module, [M]),
    Ref.

rebound_module_is_called(Config) ->
    M = py_test_lib:module(Config, "rebound_mod", "def f(): return 'old'\n"),
    {ok, <<"old">>} = py:call(M, f, []),
    {ok, _} = py:eval(<<"s.modules.__setitem__('rebound_mod', t.SimpleNamespace(f=lambda: 'new'))">>,
        #{s => import(sys), t => import(types)}),
    {ok, <<"new">>} = py:call(M, f, []),
    {ok, _} = py:eval(<<"s.modules.pop('rebound_mod')">>, #{s => import(sys)}),
    {ok, <<"old">>} = py:call(M, f, []).

reload_runs_new_code(Config) ->
    M = py_test_lib:module(Config, "reloaded_mod", "def f(): return 1\n"),
    {ok, false} = py:reload(M),
    {ok, 1} = py:call(M, f, []),
    _ = py_test_lib:module(Config, "reloaded_mod", "def f(): return 22\n"),
    {ok, true} = py:reload(<<"reloaded_mod">>),
    {ok, 22} = py:call(M, f, []),
    {ok, true} = py:reload(py:context(), M),
    {error, {'ModuleNotFoundError', _}} = py:reload(no_such_module_at_all).

%% The function is there before what it uses: the call that finds the module half imported must wait for the rest.
half_imported_module_is_waited_for(Config) ->
    M = py_test_lib:module(Config, "half_mod",
        "import half_gate\n"
        "def f(): return LATE\n"
        "half_gate.entered.set()\n"
        "half_gate.go.wait(60)\n"
        "LATE = 'whole'\n"
        "def g(): return LATE\n"),
    Gate = py_test_lib:module(Config, "half_gate",
        "import threading\nentered = threading.Event()\ngo = threading.Event()\n"),
    {ok, _} = py:call(Gate, 'go.is_set', []),
    First = py:spawn_call(M, f, []),
    {ok, true} = py:call(Gate, 'entered.wait', [60]),
    Others = [py:spawn_call(M, F, []) || F <- [f, g, f, g]],
    {ok, none} = py:call(Gate, 'go.set', []),
    [{ok, <<"whole">>} = py:await(R) || R <- [First | Others]],
    ok.

missing_attribute_of_a_nameless_module(_) ->
    C = py_test_lib:context(#{}),
    ok = py:exec(C, <<"__name__ = 5">>),
    {error, {'AttributeError', _}} = py:call(C, '__main__', nothing, []),
    ok = py:exec(C, <<"del __name__">>),
    {error, {'AttributeError', _}} = py:call(C, '__main__', nothing, []),
    py_test_lib:drop(C).

gc_and_memory_stats(_) ->
    ok = py:exec(<<"class Cycle: pass\nc = Cycle(); c.me = c; del c">>),
    {ok, N} = py:gc(),
    ?assert(N >= 1),
    {ok, 0} = py:gc(0),
    {ok, #{<<"objects">> := O, <<"allocated_blocks">> := B, <<"peak_rss_bytes">> := R}} = py:memory_stats(),
    ?assert(O > 0 andalso is_integer(B) andalso R > 1000000).

version_and_info(_) ->
    {ok, Version} = py:version(),
    #{python := P, otp := Otp, requests := _, refs := _, running_contexts := Contexts} = py:info(),
    {0, _} = binary:match(Version, P),
    ?assertEqual(list_to_binary(erlang:system_info(otp_release)), Otp),
    py_test_lib:eventually(fun() ->
        _ = [erlang:garbage_collect(Pid) || Pid <- processes()],
        #{contexts := N, running_contexts := Running} = py:info(),
        ?assertEqual(N, length(Running))
    end),
    [Default] = [C || #{name := default} = C <- Contexts],
    #{queued := 0, workers := W, max_threads := Max, closed := false, calls := Calls, pid := Pid} = Default,
    ?assert(W >= 1 andalso W =< Max andalso Calls > 0),
    ?assertEqual(py:context(), Pid).

stacks_while_running(_) ->
    ok = py:exec(<<"import threading\ngo_on = threading.Event()\nspin_on = True\n"
        "def waits_here(): go_on.wait(60)\ndef spins_here():\n    while spin_on: pass\n">>),
    Waiting = py:spawn_call('__main__', waits_here, []),
    Spinning = py:spawn_call('__main__', spins_here, []),
    py_test_lib:running({py:context(), 2}),
    py_test_lib:eventually(fun() ->
        {ok, Stacks} = py:stacks(),
        Lines = [L || {_, Ls} <- Stacks, L <- Ls],
        Functions = [<<"waits_here">>, <<"spins_here">>],
        [true = lists:any(fun(L) -> binary:match(L, F) =/= nomatch end, Lines) || F <- Functions]
    end),
    #{running := Running} = py_context:info(py:context()),
    Self = self(),
    ?assertEqual([spins_here, waits_here],
        lists:sort([F || #{module := '__main__', function := F, caller := Pid, age_us := Age} <- Running,
            Pid =:= Self, is_integer(Age)])),
    ok = py:exec(<<"spin_on = False\ngo_on.set()">>),
    {ok, none} = py:await(Waiting),
    {ok, none} = py:await(Spinning).

unicode_and_long_names(_) ->
    ok = py:exec(<<"def größe(x): return x\ndef 名(x): return x\n"/utf8>>),
    {ok, 1} = py:call('__main__', 'größe', [1]),
    {ok, 1} = py:call('__main__', '名', [1]),
    {ok, 1} = py:call('__main__', <<"名"/utf8>>, [1]),
    Long = binary_to_atom(binary:copy(<<"a">>, 255)),
    {error, {'ModuleNotFoundError', _}} = py:call(Long, Long, []),
    {error, {'UnicodeDecodeError', _}} = py:call(<<255>>, f, []).
