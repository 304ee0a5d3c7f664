%% The demonstration of streams. First one stream of tokens, from an async generator in Python, goes through one Erlang
%% process to 200 subscribers, of whom two are slow, one unsubscribes and one dies. Then 100 processes have a stream
%% each, of whom one cancels its own and one dies.
-module(py_demo_stream).

-export([run/1]).

-define(TOKENS, 20000).
-define(SUBSCRIBERS, 200).
-define(WINDOW, 256).
-define(ACK, 32).
-define(STREAMS, 100).
-define(SHORT, 1000).
-define(WIDTH, 50).

%% Each subscriber with the tokens it has acknowledged: those who get every token, and those who may miss some, with how
%% many they missed. marks: when each quarter of the text began, in us, and for how many seconds Python had stood still.
-record(hub, {
    stream :: reference(),
    model :: py:ref(),
    at = 0 :: non_neg_integer(),
    granted = ?WINDOW :: pos_integer(),
    crc = 0 :: non_neg_integer(),
    every :: #{pid() => Acked :: non_neg_integer()},
    some :: #{pid() => {Acked :: non_neg_integer(), Missed :: non_neg_integer()}},
    marks = [] :: [{integer(), float()}]
}).

-type kind() :: quick | waited_for | may_miss | leaves | dies.

%% Dir is where demo_stream.py is.
-spec run(file:filename()) -> ok.
run(Dir) ->
    {ok, Context} = py_context:start(#{name => model, threads => 2, sys_path => [Dir], preload => [demo_stream]}),
    {ok, Model} = py:call(Context, demo_stream, 'Model', []),
    {ok, Size} = py:call(Context, Model, size, []),
    io:format("A language model of ~b pairs of words, learned from Python's reference, writes for example~n", [Size]),
    {ok, Sample} = py:stream(Context, Model, tokens, [5, 24]),
    io:format("    ~ts~n~n", [lists:join(" ", Sample)]),
    broadcast(Context, Model),
    alone(Context, Model),
    py_context:stop(Context).

%% ---- one stream for all ----

-spec broadcast(pid(), py:ref()) -> ok.
broadcast(Context, Model) ->
    io:format("One stream of ~b tokens to ~b subscribers. The source may be ~b tokens ahead of the slowest who must~n"
              "not miss any; one who may miss some is passed over when it is ~b behind.~n~n",
              [?TOKENS, ?SUBSCRIBERS, ?WINDOW, ?WINDOW]),
    Kinds = [waited_for, may_miss, leaves, dies] ++ lists:duplicate(?SUBSCRIBERS - 4, quick),
    Hub = self(),
    Started = [{spawn_monitor(fun() -> subscriber(Hub, Kind) end), Kind} || Kind <- Kinds],
    Every = maps:from_list([{Pid, 0} || {{Pid, _}, Kind} <- Started, Kind =/= may_miss]),
    Some = maps:from_list([{Pid, {0, 0}} || {{Pid, _}, may_miss} <- Started]),
    {ok, Stream} = py:stream_start(Context, Model, tokens, [1, ?TOKENS], #{credit => ?WINDOW}),
    #hub{crc = Crc, marks = Marks} = pass_on(#hub{stream = Stream, model = Model, every = Every, some = Some}),
    Ends = [{Kind, ended(Who)} || {Who, Kind} <- Started],
    {ok, {_, _, _, _, Crc}} = py:call(Context, Model, account, []),
    Quick = [End || {quick, End} <- Ends],
    [{finished, ?TOKENS, 0, Crc}] = lists:usort(Quick),
    io:format("~n~n~-34s~10s~10s   ~s~n", ["subscriber", "received", "missed", "end"]),
    row(io_lib:format("~b others, each", [length(Quick)]), hd(Quick), Crc),
    row("slow, the others wait for it", proplists:get_value(waited_for, Ends), Crc),
    row("slow, misses what it cannot take", proplists:get_value(may_miss, Ends), Crc),
    row("one that unsubscribes", proplists:get_value(leaves, Ends), Crc),
    row("one that dies", proplists:get_value(dies, Ends), Crc),
    show(lists:reverse(Marks)).

%% Takes the stream and gives each token to everyone who has room for it.
-spec pass_on(#hub{}) -> #hub{}.
pass_on(#hub{stream = Stream, at = At, crc = Crc, every = Every, some = Some} = Hub) ->
    receive
        {py_stream, Stream, {data, Token}} ->
            Marked = progress(Hub),
            maps:foreach(fun(Pid, _) -> Pid ! {token, Token} end, Every),
            Given = maps:map(fun(Pid, Place) -> give(Pid, Place, At, Token) end, Some),
            pass_on(Marked#hub{at = At + 1, crc = erlang:crc32(Crc, Token), some = Given});
        {py_stream, Stream, done} ->
            maps:foreach(fun(Pid, _) -> Pid ! {finished, 0} end, Every),
            maps:foreach(fun(Pid, {_, Missed}) -> Pid ! {finished, Missed} end, Some),
            progress(Hub);
        {acked, Pid, N} when is_map_key(Pid, Every) ->
            pass_on(grant(Hub#hub{every = maps:update_with(Pid, fun(Acked) -> Acked + N end, Every)}));
        {acked, Pid, N} when is_map_key(Pid, Some) ->
            pass_on(Hub#hub{some = maps:update_with(Pid, fun({Acked, Missed}) -> {Acked + N, Missed} end, Some)});
        {acked, _Gone, _} ->
            pass_on(Hub);
        {leave, Pid} ->
            Pid ! left,
            pass_on(grant(Hub#hub{every = maps:remove(Pid, Every)}));
        {'DOWN', Monitor, process, Pid, Reason} when is_map_key(Pid, Every) ->
            self() ! {died, Monitor, Pid, Reason},
            pass_on(grant(Hub#hub{every = maps:remove(Pid, Every)}))
    end.

-spec give(pid(), Place, non_neg_integer(), binary()) -> Place when Place :: {non_neg_integer(), non_neg_integer()}.
give(_, {Acked, Missed}, At, _) when At - Acked - Missed >= ?WINDOW ->
    {Acked, Missed + 1};
give(Pid, Place, _, Token) ->
    Pid ! {token, Token},
    Place.

%% Lets Python go on as far as the slowest of those who must not miss anything has come.
-spec grant(#hub{}) -> #hub{}.
grant(#hub{stream = Stream, granted = Granted, every = Every} = Hub) ->
    Slowest = maps:fold(fun(_, Acked, Least) -> min(Acked, Least) end, ?TOKENS, Every),
    case Slowest + ?WINDOW - Granted of
        More when More > 0 ->
            _ = py:stream_ack(Stream, More),
            Hub#hub{granted = Granted + More};
        _ ->
            Hub
    end.

%% Every now and then: the bar, and at the begin of a quarter the mark.
-spec progress(#hub{}) -> #hub{}.
progress(#hub{at = At} = Hub) when At rem 250 =/= 0 ->
    Hub;
progress(#hub{model = Model, at = At, every = Every, some = Some, marks = Marks} = Hub) ->
    {ok, {_, _, _, HeldBack, _}} = py:call(Model, account, []),
    Width = ?WIDTH * At div ?TOKENS,
    Bar = [lists:duplicate(Width, $#), lists:duplicate(?WIDTH - Width, $.)],
    To = map_size(Every) + map_size(Some),
    io:format("\r[~ts] ~b/~b to ~b, held back for ~.1f s ", [Bar, At, ?TOKENS, To, HeldBack]),
    case At rem (?TOKENS div 4) of
        0 -> Hub#hub{marks = [{erlang:monotonic_time(microsecond), HeldBack} | Marks]};
        _ -> Hub
    end.

-spec show([{integer(), float()}]) -> ok.
show(Marks) ->
    io:format("~n~-34s~10s~10s~13s~n", ["quarter of the text", "seconds", "tokens/s", "held back"]),
    Names = ["first", "second (the slow one reads slowly)", "third", "fourth"],
    lists:foreach(
        fun({Name, {Begin, Before}, {End, After}}) ->
            Us = End - Begin,
            io:format("~-34s~10.2f~10b~11.2f s~n", [Name, Us / 1000000, ?TOKENS div 4 * 1000000 div Us, After - Before])
        end,
        lists:zip3(Names, lists:droplast(Marks), tl(Marks))
    ),
    io:format("Held back: the generator stood still at its `yield`, since nobody had asked for more.~n~n").

%% What a subscriber came to: how its process ended.
-spec ended({pid(), reference()}) -> term().
ended({Pid, Monitor}) ->
    receive
        {'DOWN', Monitor, process, Pid, Reason} -> Reason;
        {died, Monitor, Pid, Reason} -> Reason
    end.

-spec row(iodata(), tuple(), non_neg_integer()) -> ok.
row(Who, End, Crc) ->
    {Received, Missed, How} =
        case End of
            {finished, ?TOKENS, 0, Crc} -> {?TOKENS, 0, "the whole text"};
            {finished, Some, Rest, _} when Rest > 0, Some + Rest =:= ?TOKENS -> {Some, Rest, "a part of the text"};
            {unsubscribed, Some} -> {Some, 0, "left, nobody was held up"};
            {crashed, Some} -> {Some, 0, "dead, nobody was held up"}
        end,
    io:format("~-34ts~10b~10b   ~ts~n", [Who, Received, Missed, How]).

%% Ends with what it has seen as the reason.
-spec subscriber(pid(), kind()) -> no_return().
subscriber(Hub, Kind) ->
    take(Hub, Kind, 0, 0).

-spec take(pid(), kind(), non_neg_integer(), non_neg_integer()) -> no_return().
take(Hub, leaves, 5000, _) ->
    Hub ! {leave, self()},
    receive left -> exit({unsubscribed, 5000}) end;
take(_, dies, 3000, _) ->
    exit({crashed, 3000});
take(Hub, Kind, N, Crc) ->
    receive
        {token, Token} ->
            dawdle(Kind, N),
            (N + 1) rem ?ACK =:= 0 andalso (Hub ! {acked, self(), ?ACK}),
            take(Hub, Kind, N + 1, erlang:crc32(Crc, Token));
        {finished, Missed} ->
            exit({finished, N, Missed, Crc})
    end.

%% The one who is waited for reads slowly in the second quarter of the text, the other one all the time.
-spec dawdle(kind(), non_neg_integer()) -> ok.
dawdle(waited_for, N) when N > ?TOKENS div 4, N < ?TOKENS div 2, N rem 3 =:= 0 -> receive after 1 -> ok end;
dawdle(may_miss, _) -> receive after 2 -> ok end;
dawdle(_, _) -> ok.

%% ---- a stream for each ----

-spec alone(pid(), py:ref()) -> ok.
alone(Context, Model) ->
    io:format("~b processes with a stream of ~b tokens each, all on one loop: one cancels its own, one dies.~n~n",
              [?STREAMS, ?SHORT]),
    {ok, {Begun, Ended, Closed, _, _}} = py:call(Context, Model, account, []),
    Kinds = [leaves, dies] ++ lists:duplicate(?STREAMS - 2, quick),
    Start = erlang:monotonic_time(microsecond),
    Reader = fun({Seed, Kind}) -> spawn_monitor(fun() -> reader(Context, Model, Kind, Seed) end) end,
    Started = [Reader(Seeded) || Seeded <- lists:enumerate(Kinds)],
    [{unsubscribed, 100}, {crashed, 100} | Rest] = [ended(Who) || Who <- Started],
    [{finished, ?SHORT}] = lists:usort(Rest),
    {All, Whole, Cut} = settled(Context, Model, {Begun, Ended, Closed}, erlang:monotonic_time(millisecond) + 10000),
    Us = erlang:monotonic_time(microsecond) - Start,
    io:format("~-34s~10s~n", ["generator", "how many"]),
    io:format("~-34s~10b~n~-34s~10b~n~-34s~10b~n", [
        "begun", All, "run to the end", Whole, "closed by cancel or death", Cut
    ]),
    io:format("~n~b tokens/s; the `finally` of every generator has run.~n", [?STREAMS * ?SHORT * 1000000 div Us]).

%% The counts when every generator has ended: after a cancel or a death that is a moment later.
-spec settled(pid(), py:ref(), Before, integer()) -> Since when
    Before :: {non_neg_integer(), non_neg_integer(), non_neg_integer()},
    Since :: {non_neg_integer(), non_neg_integer(), non_neg_integer()}.
settled(Context, Model, {Begun0, Ended0, Closed0} = Before, Until) ->
    {ok, {Begun, Ended, Closed, _, _}} = py:call(Context, Model, account, []),
    case {Begun - Begun0, Ended - Ended0, Closed - Closed0} of
        {All, Whole, 2 = Cut} when All =:= Whole + Cut ->
            {All, Whole, Cut};
        Open ->
            erlang:monotonic_time(millisecond) < Until orelse exit({generators_left, Open}),
            receive after 10 -> settled(Context, Model, Before, Until) end
    end.

-spec reader(pid(), py:ref(), kind(), pos_integer()) -> no_return().
reader(Context, Model, Kind, Seed) ->
    {ok, Stream} = py:stream_start(Context, Model, tokens, [Seed, ?SHORT], #{credit => ?WINDOW}),
    read(Stream, Kind, 0).

-spec read(reference(), kind(), non_neg_integer()) -> no_return().
read(Stream, leaves, 100) ->
    ok = py:stream_cancel(Stream),
    exit({unsubscribed, 100});
read(_, dies, 100) ->
    exit({crashed, 100});
read(Stream, Kind, N) ->
    receive
        {py_stream, Stream, {data, _}} ->
            (N + 1) rem ?ACK =:= 0 andalso py:stream_ack(Stream, ?ACK),
            read(Stream, Kind, N + 1);
        {py_stream, Stream, done} ->
            exit({finished, N})
    end.
