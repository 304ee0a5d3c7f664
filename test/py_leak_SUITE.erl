%% What is used is given back: objects and blocks of Python, requests, refs, pins, threads, fds, memory of the emulator.
%% scripts/soak runs the same calls by the million and watches the size of the process.
-module(py_leak_SUITE).

-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).


suite() ->
    [{timetrap, {minutes, 3}}].

all() ->
    [
        python_blocks_stay,
        emulator_memory_stays,
        contexts_give_all_back,
        timeouts_give_all_back,
        names_are_a_bounded_cache
    ].

init_per_suite(Config) -> py_test_lib:start(Config).
end_per_suite(Config) -> py_test_lib:stop(Config).

%% Calls of all kinds of arguments, results and endings: {What, fun(Context) -> Result}.
-spec calls() -> [{atom(), fun((pid()) -> term())}].
calls() ->
    Bin = binary:copy(<<"some text ">>, 200),
    Bytes = binary:copy(<<255, 0>>, 2000),
    Big = 1 bsl 2000,
    Map = maps:from_list([{I, integer_to_binary(I)} || I <- lists:seq(1, 60)]),
    Fun = fun(X) -> X end,
    Pid = self(),
    Ref = make_ref(),
    Values = [1, -1, Big, -Big, 1.5, true, none, an_atom, Bin, Bytes, <<>>, <<5:3>>, [], [1 | 2], {}, {1, Bin}, Map, #{},
        lists:seq(1, 300), [[[[Bin]]]], Fun, Pid, Ref, {bytes, Bytes}, #{a => [{b, #{<<"c">> => Bytes}}]}],
    [{value, fun(C) -> {ok, _} = py:call(C, '__main__', ident, [V]) end} || V <- Values] ++
        [
            {many, fun(C) -> {ok, _} = py:call(C, '__main__', several, Values) end},
            {keywords, fun(C) -> {ok, _} = py:call(C, '__main__', several, [1], #{a => Bin, <<"b">> => Map}) end},
            {eval, fun(C) -> {ok, _} = py:eval(C, <<"[x, y]">>, #{x => Bin, y => Map}) end},
            {exec, fun(C) -> ok = py:exec(C, <<"tmp = [1, 2, 3]\ndel tmp">>) end},
            {error, fun(C) -> {error, {'ValueError', _}} = py:call(C, math, sqrt, [-1]) end},
            {deep_error, fun(C) -> {error, {'ZeroDivisionError', _}} = py:call(C, '__main__', raises, [5]) end},
            {missing, fun(C) -> {error, {'AttributeError', _}} = py:call(C, math, no_such, [Bin]) end},
            {no_module, fun(C) -> {error, {'ModuleNotFoundError', _}} = py:call(C, no_such_module_x, f, [Bin]) end},
            {syntax, fun(C) -> {error, {'SyntaxError', _}} = py:eval(C, <<"1 +">>) end},
            {bad_argument, fun(C) -> {error, {'TypeError', _}} = py:call(C, '__main__', ident, [#{#{} => Bin}]) end},
            {bad_keyword, fun(C) -> {error, {'TypeError', _}} = py:call(C, '__main__', several, [Bin], #{<<"a b">> => Bin}) end},
            {bad_result, fun(C) -> {error, {'UnicodeEncodeError', _}} = py:eval(C, <<"['x' * 100, '\\ud800']">>) end},
            {coroutine, fun(C) -> {error, {'TypeError', _}} = py:call(C, '__main__', coroutine, []) end},
            {ref, fun(C) ->
                {ok, D} = py:call(C, collections, deque, [[Bin]]),
                {ok, 1} = py:call(C, builtins, len, [D]),
                {ok, none} = py:call_method(C, D, append, [D])
            end},
            {cast, fun(C) -> ok = py:cast(C, '__main__', ident, [Bin]) end},
            {spawned, fun(C) -> {ok, _} = py:await(py:spawn_call(C, '__main__', ident, [Map])) end},
            {dropped, fun(C) -> py:await(py:spawn_call(C, '__main__', ident, [Bytes]), 0) end}
        ].

-spec round(pid(), [{atom(), fun((pid()) -> term())}]) -> ok.
round(C, Calls) ->
    [Call(C) || {_, Call} <- Calls],
    ok.

prepared(Options) ->
    C = py_test_lib:context(Options),
    ok = py:exec(C, <<
        "import gc, sys\n"
        "def ident(x): return x\n"
        "def several(*args, **kwargs): return args, kwargs\n"
        "def raises(n): return raises(n - 1) if n else 1 / 0\n"
        "async def coroutine(): pass\n"
        "def blocks():\n"
        "    gc.collect()\n"
        "    return sys.getallocatedblocks()\n"
    >>),
    C.

settle() ->
    py_test_lib:eventually(fun() ->
        _ = [erlang:garbage_collect(P) || P <- processes()],
        #{requests := 0, refs := 0, pins := 0} = py_nif:counters()
    end).

%% As many after 400 rounds as after 200, but for what the caches of CPython hold this time and not that time.
python_blocks_stay(_) ->
    C = prepared(#{}),
    Calls = calls(),
    Blocks = fun() ->
        [round(C, Calls) || _ <- lists:seq(1, 200)],
        settle(),
        py_test_lib:eventually(fun() -> #{queued := 0} = py_context:info(C) end),
        {ok, N} = py:call(C, '__main__', blocks, []),
        N
    end,
    py_test_lib:steady(Blocks, 200), %% less than a block a round; CPython's free lists fill up for a while
    py_context:stop(C).

emulator_memory_stays(_) ->
    C = prepared(#{}),
    Calls = calls(),
    Memory = fun() ->
        [round(C, Calls) || _ <- lists:seq(1, 200)],
        settle(),
        erlang:memory(system) + erlang:memory(binary)
    end,
    py_test_lib:steady(Memory, 200000), %% an environment a call would be megabytes
    py_context:stop(C).

contexts_give_all_back(_) ->
    Rounds = fun() ->
        [
            begin
                C = prepared(#{}),
                round(C, calls()),
                py_context:stop(C)
            end
         || _ <- lists:seq(1, 50)
        ],
        settle(),
        Listed = length(py_context:list()),
        py_test_lib:eventually(fun() -> #{contexts := Listed} = py_nif:counters() end),
        {ok, _} = py:gc(),
        {ok, #{<<"allocated_blocks">> := Blocks}} = py:memory_stats(),
        Blocks + 1000 * length(py_test_lib:threads())
    end,
    py_test_lib:steady(Rounds, 500).

timeouts_give_all_back(_) ->
    C = prepared(#{threads => 2}),
    ok = py:exec(C, <<"def forever(x):\n    while True: pass">>),
    Rounds = fun() ->
        [{error, timeout} = py:call(C, '__main__', forever, [lists:seq(1, 100)], #{}, 1) || _ <- lists:seq(1, 50)],
        settle(),
        {ok, N} = py:call(C, '__main__', blocks, []),
        N
    end,
    py_test_lib:steady(Rounds, 40),
    py_context:stop(C).

%% Names that come as binaries, or as ever new atoms, are not kept.
names_are_a_bounded_cache(_) ->
    C = prepared(#{}),
    Rounds = fun() ->
        [
            {error, {'AttributeError', _}} =
                py:call(C, math, <<"no_", (integer_to_binary(erlang:unique_integer([positive])))/binary>>, [])
         || _ <- lists:seq(1, 5000)
        ],
        {ok, N} = py:call(C, '__main__', blocks, []),
        N
    end,
    py_test_lib:steady(Rounds, 500),
    py_context:stop(C).
