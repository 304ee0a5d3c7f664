%% What the suites of contexts on other nodes share.
-module(py_node_lib).

-export([start/1]).
-export([stop/1]).
-export([os_pid/1]).
-export([alive/1]).
-export([gone/1]).
-export([kill/1]).
-export([ended/2]).

%% Of a suite: as py_test_lib's, on a distributed node, which leaves nothing in the table of nodes.
-spec start([{atom(), term()}]) -> [{atom(), term()}].
start(Config) ->
    Started = py_bench_lib:distributed(),
    [{distributed, Started} | py_test_lib:start(Config)].

-spec stop([{atom(), term()}]) -> ok.
stop(Config) ->
    py_test_lib:eventually(fun() -> [] = [Row || Row <- ets:tab2list(py_node), element(1, Row) =/= slots] end),
    ok = py_test_lib:stop(Config),
    _ = [ok = net_kernel:stop() || proplists:get_value(distributed, Config)],
    ok.

%% Of the process in which the context's Python is.
-spec os_pid(pid()) -> pos_integer().
os_pid(C) ->
    {ok, OsPid} = py:call(C, os, getpid, []),
    OsPid.

-spec alive(pos_integer()) -> boolean().
alive(OsPid) ->
    filelib:is_dir("/proc/" ++ integer_to_list(OsPid)).

-spec gone(pos_integer()) -> ok.
gone(OsPid) ->
    py_test_lib:eventually(fun() -> false = alive(OsPid), ok end).

-spec kill(pos_integer()) -> string().
kill(OsPid) ->
    os:cmd("kill -9 " ++ integer_to_list(OsPid)).

%% How the process of the context ended.
-spec ended(pid(), fun(() -> term())) -> term().
ended(C, Do) ->
    Monitor = monitor(process, C),
    Do(),
    receive
        {'DOWN', Monitor, process, C, Reason} -> Reason
    end.
