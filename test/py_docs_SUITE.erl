%% Runs what the README and docs/*.md show. A block marked `erlang` is shell expressions, whose patterns must match; the
%% bindings of a page last to its end; one marked `erlang 3.13` runs with that Python or a later one. A block marked
%% `python` is executed in the default context. Other marks are not run.
-module(py_docs_SUITE).

-include_lib("common_test/include/ct.hrl").

-export([suite/0]).
-export([all/0]).
-export([init_per_suite/1]).
-export([end_per_suite/1]).
-export([pages/1]).

-type block() :: {erlang | python, pos_integer(), string()}.

-spec suite() -> [{timetrap, {minutes, pos_integer()}}].
suite() ->
    [{timetrap, {minutes, 3}}].

-spec all() -> [atom()].
all() ->
    [pages].

-spec init_per_suite(Config) -> Config.
init_per_suite(Config) ->
    ok = py_test_lib:grace(1000), %% a page abandons what sleeps for 2 s
    {ok, _} = application:ensure_all_started(erlang_python),
    [{distributed, py_bench_lib:distributed()} | Config]. %% docs/nodes.md

-spec end_per_suite(term()) -> ok.
end_per_suite(Config) ->
    _ = [ok = net_kernel:stop() || proplists:get_value(distributed, Config)],
    application:stop(erlang_python).

-spec pages(term()) -> {comment, string()}.
pages(_Config) ->
    Root = root(filename:dirname(code:which(?MODULE))),
    Pages = [filename:join(Root, "README.md") | filelib:wildcard(filename:join([Root, "docs", "*.md"]))],
    Counts = [page(Page) || Page <- Pages],
    true = lists:sum(Counts) > 0,
    {comment, lists:flatten(io_lib:format("~b blocks on ~b pages", [lists:sum(Counts), length(Pages)]))}.

%% The checkout: up from where the suite was compiled to.
-spec root(file:filename()) -> file:filename().
root(Dir) ->
    case filelib:is_regular(filename:join(Dir, "rebar.config")) andalso filelib:is_dir(filename:join(Dir, "docs")) of
        true -> Dir;
        false when Dir =/= "/" -> root(filename:dirname(Dir))
    end.

-spec page(file:filename()) -> non_neg_integer().
page(File) ->
    {ok, Text} = file:read_file(File),
    Blocks = blocks(string:split(unicode:characters_to_list(Text), "\n", all), 1, []),
    _ = lists:foldl(fun(Block, Bindings) -> run(File, Block, Bindings) end, erl_eval:new_bindings(), Blocks),
    length(Blocks).

-spec blocks([string()], pos_integer(), [block()]) -> [block()].
blocks([], _, Found) ->
    lists:reverse(Found);
blocks(["```" ++ Mark | Lines], N, Found) ->
    {Code, Rest} = lists:splitwith(fun(Line) -> Line =/= "```" end, Lines),
    Found1 =
        case mark(Mark) of
            "erlang" -> [{erlang, N + 1, lists:append([L ++ "\n" || L <- Code])} | Found];
            "python" -> [{python, N + 1, lists:append([L ++ "\n" || L <- Code])} | Found];
            _ -> Found
        end,
    blocks(tl(Rest), N + 2 + length(Code), Found1);
blocks([_ | Lines], N, Found) ->
    blocks(Lines, N + 1, Found).

-spec mark(string()) -> string().
mark("erlang " ++ Since) ->
    case minor(binary_to_list(py_nif:python_version())) >= minor(Since) of
        true -> "erlang";
        false -> "text"
    end;
mark(Mark) ->
    Mark.

%% "3.13.0rc1" as {3, 13}.
-spec minor(string()) -> {integer(), integer()}.
minor(Version) ->
    [Major, Minor | _] = string:lexemes(Version, "."),
    {list_to_integer(Major), list_to_integer(Minor)}.

-spec run(file:filename(), block(), erl_eval:binding_struct()) -> erl_eval:binding_struct().
run(File, {python, Line, Code}, Bindings) ->
    %% Empty lines in front keep the line numbers of the page in a traceback.
    case py:exec(unicode:characters_to_binary(lists:duplicate(Line - 1, $\n) ++ Code)) of
        ok -> Bindings;
        Error -> ct:fail("~ts:~b~n~ts", [File, Line, py:format_error(Error)])
    end;
run(File, {erlang, Line, Code}, Bindings) ->
    {ok, Tokens, _} = erl_scan:string(Code, Line),
    lists:foldl(fun(Form, B) -> expressions(File, Form, B) end, Bindings, forms(Tokens, [], [])).

-spec forms([erl_scan:token()], [erl_scan:token()], [[erl_scan:token()]]) -> [[erl_scan:token()]].
forms([], [], Forms) -> lists:reverse(Forms);
forms([{dot, _} = Dot | Tokens], Form, Forms) -> forms(Tokens, [], [lists:reverse([Dot | Form]) | Forms]);
forms([Token | Tokens], Form, Forms) -> forms(Tokens, [Token | Form], Forms).

-spec expressions(file:filename(), [erl_scan:token()], erl_eval:binding_struct()) -> erl_eval:binding_struct().
expressions(File, Form, Bindings) ->
    Line = erl_scan:line(hd(Form)),
    case erl_parse:parse_exprs(Form) of
        {ok, Exprs} ->
            try erl_eval:exprs(Exprs, Bindings) of
                {value, _, Bindings1} -> Bindings1
            catch
                Class:Reason -> ct:fail("~ts:~b ~p: ~tp", [File, Line, Class, Reason])
            end;
        {error, {At, Module, Why}} ->
            ct:fail("~ts:~p: ~ts", [File, At, Module:format_error(Why)])
    end.
