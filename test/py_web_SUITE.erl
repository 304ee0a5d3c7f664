%% A web server and client from PyPI (aiohttp) on loops of contexts, driven from Erlang. The code is that of the HTTP
%% demonstration, docs/demo. uvicorn and Starlette are in python/tests/test_web.py.
-module(py_web_SUITE).

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([init_per_testcase/2]).
-export([end_per_testcase/2]).

-export([requests_over_tcp/1]).
-export([requests_over_tls/1]).
-export([deadline_cancels_what_is_open/1]).
-export([server_stops_beneath_its_clients/1]).

suite() ->
    [{timetrap, {minutes, 2}}].

all() ->
    [requests_over_tcp, requests_over_tls, deadline_cancels_what_is_open, server_stops_beneath_its_clients].

init_per_suite(Config) ->
    Started = py_test_lib:start(Config),
    case py:call(importlib, import_module, [aiohttp]) of
        {ok, _} ->
            Demo = filename:join(root(filename:dirname(code:which(?MODULE))), "docs/demo"),
            {ok, Module, Binary} = compile:file(filename:join(Demo, "py_demo_http.erl"), [binary, return_errors]),
            {module, Module} = code:load_binary(Module, "py_demo_http.erl", Binary),
            _ = py_test_lib:module(Started, "web_fixture", fixture()),
            [{demo, Demo} | Started];
        {error, _} ->
            {skip, "there is no aiohttp here: scripts/test makes an environment that has it"}
    end.

end_per_suite(Config) ->
    py_test_lib:stop(Config).

init_per_testcase(_Case, Config) ->
    [{Name, py_demo_http:start(proplists:get_value(demo, Config), Name)} || Name <- [web_server, web_client]] ++ Config.

end_per_testcase(_Case, _Config) ->
    [ok = py_context:stop(py:context(Name)) || Name <- [web_server, web_client]],
    py_test_lib:no_messages().

%% The checkout: up from where the suite was compiled to.
root(Dir) ->
    case filelib:is_regular(filename:join(Dir, "rebar.config")) andalso filelib:is_dir(filename:join(Dir, "docs")) of
        true -> Dir;
        false when Dir =/= "/" -> root(filename:dirname(Dir))
    end.

%% A server that does not answer request 0 until its client has gone.
fixture() ->
    "import asyncio, demo_http\n"
    "class Server(demo_http.Server):\n"
    "    waiting = 0\n"
    "    def count_waiting(self): return self.waiting\n"
    "    async def _digest(self, request):\n"
    "        if request.match_info['n'] != '0': return await super()._digest(request)\n"
    "        self.waiting += 1\n"
    "        try:\n"
    "            while request.transport is not None: await asyncio.sleep(0.01)\n"
    "        finally:\n"
    "            self.waiting -= 1\n".

%% ---- cases ----

%% round/3 checks every answer, and what the calls beside them give.
requests_over_tcp(Config) ->
    [_ = py_demo_http:round(tcp, 500, proplists:get_value(priv_dir, Config), Both) || Both <- contexts()],
    ok.

requests_over_tls(Config) ->
    [_ = py_demo_http:round(tls, 500, proplists:get_value(priv_dir, Config), Both) || Both <- contexts()],
    ok.

%% Requests that the server never answers: one deadline ends all of them, and their connections.
deadline_cancels_what_is_open(_Config) ->
    {Server, Client} = opened(),
    {error, timeout} = py:async_gather(
        py:context(web_client), [{Client, digest, [0, {bytes, <<>>}]} || _ <- lists:seq(1, 50)], #{timeout => 500}
    ),
    py_test_lib:eventually(fun() -> {ok, 0} = py:call(Server, count_waiting, []) end),
    {ok, #{<<"size">> := 3}} = await(web_client, Client, digest, [1, {bytes, <<"abc">>}]),
    {ok, none} = await(web_client, Client, close, []),
    {ok, none} = await(web_server, Server, stop, []).

%% The loop of the server is stopped: its clients see their connections end, and its context starts another loop.
server_stops_beneath_its_clients(_Config) ->
    {Server, Client} = opened(),
    Refs = [py:async_call(py:context(web_client), Client, digest, [0, {bytes, <<>>}]) || _ <- lists:seq(1, 20)],
    py_test_lib:eventually(fun() -> {ok, 20} = py:call(Server, count_waiting, []) end),
    ok = py_context:stop_loop(py:context(web_server), 0),
    [{error, {'ServerDisconnectedError', #{}}} = py:async_await(Ref) || Ref <- Refs],
    {ok, none} = await(web_client, Client, close, []),
    {Server2, Client2} = opened(),
    {ok, #{<<"size">> := 3}} = await(web_client, Client2, digest, [1, {bytes, <<"abc">>}]),
    {ok, none} = await(web_client, Client2, close, []),
    {ok, none} = await(web_server, Server2, stop, []).

%% ---- helpers ----

opened() ->
    {ok, Server} = py:call(py:context(web_server), web_fixture, 'Server', []),
    {ok, Port} = await(web_server, Server, start, [none]),
    {ok, Client} = py:call(py:context(web_client), demo_http, 'Client', [Port, none]),
    {ok, none} = await(web_client, Client, open, []),
    {Server, Client}.

%% Server and client on two loops, and on one.
contexts() ->
    Server = py:context(web_server),
    [{Server, py:context(web_client)}, {Server, Server}].

await(Name, Object, Method, Args) ->
    py_demo_http:await(py:context(Name), {Object, Method}, Args).
