%% The demonstration of the loop: an aiohttp server and an aiohttp client inside this VM, both on the event loop of a
%% context. Erlang drives 10,000 requests over TCP and 10,000 over TLS by py:async_gather and checks every answer;
%% other processes call Python by py:call all the while.
-module(py_demo_http).

-export([run/1]).
-export([start/2]).
-export([await/3]).
-export([round/4]).
-export([certificate/2]).

-define(REQUESTS, 10000).
-define(AT_ONCE, 100).
-define(CALLERS, 4).
-define(TIMEOUT_MS, 60000).
-define(LOOK_MS, 100).

-record(round, {
    over :: tcp | tls,
    requests :: pos_integer(),
    us :: pos_integer(),
    calls :: [non_neg_integer()]
}).

%% Dir is where demo_http.py is.
-spec run(file:filename()) -> ok.
run(Dir) ->
    Temporary = filename:join("/tmp", "py_demo_http_" ++ os:getpid()),
    ok = filelib:ensure_path(Temporary),
    try
        Context = start(Dir, web),
        {ok, Using} = py:call(Context, demo_http, versions, []),
        io:format("~ts. The server and the client are in this VM, on the loop of a context.~n", [Using]),
        io:format("~b requests over TCP, ~b over TLS, ~b at once; ~b processes call Python meanwhile.~n~n", [
            ?REQUESTS, ?REQUESTS, ?AT_ONCE, ?CALLERS
        ]),
        show([round(Over, ?REQUESTS, Temporary, {Context, Context}) || Over <- [tcp, tls]]),
        py_context:stop(Context)
    after
        file:del_dir_r(Temporary)
    end.

-spec start(file:filename(), atom()) -> pid().
start(Dir, Name) ->
    {ok, Context} = py_context:start(#{name => Name, sys_path => [Dir], preload => [demo_http]}),
    Context.

%% A server on one context's loop, a client on another's or the same, and Requests requests between them.
-spec round(tcp | tls, pos_integer(), file:filename(), {pid(), pid()}) -> #round{}.
round(Over, Requests, Temporary, {ServerContext, ClientContext}) ->
    {Key, Root} = certificate(Over, Temporary),
    {ok, Server} = py:call(ServerContext, demo_http, 'Server', []),
    {ok, Port} = await(ServerContext, {Server, start}, [Key]),
    {ok, Client} = py:call(ClientContext, demo_http, 'Client', [Port, Root]),
    {ok, none} = await(ClientContext, {Client, open}, []),
    Callers = [spawn_monitor(fun() -> call(I, []) end) || I <- lists:seq(1, ?CALLERS)],
    Bodies = [{N, body(N)} || N <- lists:seq(1, Requests)],
    Watcher = spawn_link(fun() -> watch(Over, Server, Requests) end),
    Start = erlang:monotonic_time(microsecond),
    {ok, Answers} = py:async_gather(
        ClientContext,
        [{Client, digest, [N, {bytes, Body}]} || {N, Body} <- Bodies],
        #{concurrency => ?AT_ONCE, timeout => ?TIMEOUT_MS, on_error => stop}
    ),
    Us = erlang:monotonic_time(microsecond) - Start,
    Watcher ! {stop, self()},
    receive {Watcher, stopped} -> ok end,
    ok = check(Bodies, Answers),
    Calls = lists:append([stop_caller(Caller) || Caller <- Callers]),
    {ok, Requests} = py:call(Server, count, []),
    {ok, none} = await(ClientContext, {Client, close}, []),
    {ok, none} = await(ServerContext, {Server, stop}, []),
    #round{over = Over, requests = Requests, us = Us, calls = Calls}.

%% Awaits a method of an object of the context.
-spec await(pid(), {py:ref(), atom()}, [term()]) -> py:result().
await(Context, {Object, Method}, Args) ->
    py:async_await(py:async_call(Context, Object, Method, Args)).

%% What request N sends: up to 8 KiB.
-spec body(pos_integer()) -> binary().
body(N) ->
    binary:copy(<<N:32>>, 1 + N * 37 rem 2048).

-spec check([{pos_integer(), binary()}], [map()]) -> ok.
check([], []) ->
    ok;
check([{N, Body} | Bodies], [Answer | Answers]) ->
    Digest = string:lowercase(binary:encode_hex(crypto:hash(sha256, Body))),
    Size = byte_size(Body),
    #{<<"n">> := N, <<"size">> := Size, <<"sha256">> := Digest} = Answer,
    check(Bodies, Answers).

%% ---- TLS ----

%% A root of our own, and a certificate of localhost: files for both sides.
-spec certificate(tcp | tls, file:filename()) -> {binary() | none, binary() | none}.
certificate(tcp, _) ->
    {none, none};
certificate(tls, Temporary) ->
    Localhost = {'Extension', {2, 5, 29, 17}, false, [{dNSName, "localhost"}]},
    Options = [{digest, sha256}, {key, {namedCurve, secp256r1}}],
    Chain = #{root => Options, intermediates => [], peer => [{extensions, [Localhost]} | Options]},
    #{server_config := Server, client_config := Client} =
        public_key:pkix_test_data(#{server_chain => Chain, client_chain => Chain}),
    {KeyType, Key} = proplists:get_value(key, Server),
    {
        pem(Temporary, "server.pem", [{KeyType, Key}, {'Certificate', proplists:get_value(cert, Server)}]),
        pem(Temporary, "root.pem", [{'Certificate', Der} || Der <- proplists:get_value(cacerts, Client)])
    }.

-spec pem(file:filename(), string(), [{atom(), binary()}]) -> binary().
pem(Directory, Name, Entries) ->
    File = filename:join(Directory, Name),
    ok = file:write_file(File, public_key:pem_encode([{Type, Der, not_encrypted} || {Type, Der} <- Entries])),
    unicode:characters_to_binary(File).

%% ---- what goes on meanwhile ----

%% Shows how many requests the server has answered.
-spec watch(tcp | tls, py:ref(), pos_integer()) -> ok.
watch(Over, Server, All) ->
    {ok, Done} = py:call(Server, count, []),
    Width = 50 * Done div All,
    Bar = [lists:duplicate(Width, $#), lists:duplicate(50 - Width, $.)],
    io:format("\r~ts [~ts] ~b/~b", [name(Over), Bar, Done, All]),
    receive
        {stop, From} ->
            io:format("\r~ts [~ts] ~b/~b~n", [name(Over), lists:duplicate(50, $#), All, All]),
            From ! {self(), stopped},
            ok
    after ?LOOK_MS -> watch(Over, Server, All)
    end.

%% Calls Python every now and then until it is told to stop; exits with how many us each call took.
-spec call(pos_integer(), [non_neg_integer()]) -> no_return().
call(I, Taken) ->
    Data = integer_to_binary(I * length(Taken)),
    Sum = erlang:crc32(Data),
    Start = erlang:monotonic_time(microsecond),
    {ok, Sum} = py:call(zlib, crc32, [{bytes, Data}]),
    Us = erlang:monotonic_time(microsecond) - Start,
    receive
        stop -> exit({taken, [Us | Taken]})
    after 2 -> call(I, [Us | Taken])
    end.

-spec stop_caller({pid(), reference()}) -> [non_neg_integer()].
stop_caller({Pid, Monitor}) ->
    Pid ! stop,
    receive {'DOWN', Monitor, process, Pid, {taken, Taken}} -> Taken end.

%% ---- the account ----

-spec show([#round{}]) -> ok.
show(Rounds) ->
    io:format("~n~-6s~10s~10s~12s~22s~14s~14s~n", [
        "over", "answered", "seconds", "requests/s", "py:call meanwhile", "median", "99 of 100"
    ]),
    lists:foreach(
        fun(#round{over = Over, requests = Requests, us = Us, calls = Calls}) ->
            Sorted = lists:sort(Calls),
            io:format("~-6ts~10b~10.1f~12b~22b~11b us~11b us~n", [
                name(Over),
                Requests,
                Us / 1000000,
                Requests * 1000000 div Us,
                length(Calls),
                lists:nth(1 + length(Sorted) * 50 div 100, Sorted),
                lists:nth(1 + length(Sorted) * 99 div 100, Sorted)
            ])
        end,
        Rounds
    ),
    io:format("~nEvery answer was compared with what Erlang computes.~n").

-spec name(tcp | tls) -> string().
name(tcp) -> "TCP";
name(tls) -> "TLS".
