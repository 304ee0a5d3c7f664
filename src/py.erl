%% The public API: Python from Erlang. Every function that runs Python also takes a context's pid as its first argument;
%% without one it uses the default context. See docs/calling.md.
%%
%% A call submits and waits for the one reply that the C side guarantees: it keeps the deadline, so nothing here has a
%% timeout of its own, and no late message can reach a caller.
-module(py).

-export([call/3]).
-export([call/4]).
-export([call/5]).
-export([call/6]).
-export([eval/1]).
-export([eval/2]).
-export([eval/3]).
-export([eval/4]).
-export([exec/1]).
-export([exec/2]).
-export([exec/3]).
-export([cast/3]).
-export([cast/4]).
-export([cast/5]).
-export([spawn_call/3]).
-export([spawn_call/4]).
-export([spawn_call/5]).
-export([await/1]).
-export([await/2]).
-export([async_call/3]).
-export([async_call/4]).
-export([async_call/5]).
-export([async_await/1]).
-export([async_await/2]).
-export([async_cancel/1]).
-export([async_gather/1]).
-export([async_gather/2]).
-export([async_gather/3]).
-export([map/3]).
-export([map/4]).
-export([map/5]).
-export([stream/3]).
-export([stream/4]).
-export([stream/5]).
-export([stream_eval/1]).
-export([stream_eval/2]).
-export([stream_eval/3]).
-export([stream_start/3]).
-export([stream_start/4]).
-export([stream_start/5]).
-export([stream_ack/2]).
-export([stream_cancel/1]).
-export([interrupt/1]).
-export([getattr/2]).
-export([getattr/3]).
-export([call_method/3]).
-export([call_method/4]).
-export([call_method/5]).
-export([to_term/1]).
-export([to_term/2]).
-export([is_ref/1]).
-export([context/0]).
-export([context/1]).
-export([info/0]).
-export([stacks/0]).
-export([stacks/1]).
-export([version/0]).
-export([memory_stats/0]).
-export([memory_stats/1]).
-export([gc/0]).
-export([gc/1]).
-export([reload/1]).
-export([reload/2]).
-export([top/0]).
-export([top/1]).
-export([configure_logging/0]).
-export([configure_logging/1]).
-export([format_error/1]).
-export([register_function/2]).
-export([register_function/3]).
-export([unregister_function/1]).
-export([state_get/1]).
-export([state_get/2]).
-export([state_set/2]).
-export([state_delete/1]).
-export([state_keys/0]).
-export([state_incr/1]).
-export([state_incr/2]).
-export([state_decr/1]).
-export([state_decr/2]).


-export_type([name/0]).
-export_type([kwargs/0]).
-export_type([ref/0]).
-export_type([error/0]).
-export_type([options/0]).
-export_type([result/0]).

-define(TIMEOUT_MS, 30000).
-define(NO_REPLY, 1).

-type name() :: atom() | binary().
-type kwargs() :: #{atom() | binary() => term()}.
-type ref() :: {py_ref, TypeName :: binary(), reference()}.
%% timeout in ms; binaries => bytes makes every binary argument `bytes`.
-type options() :: #{timeout => timeout(), binaries => auto | bytes}.
-type error() ::
    {Class :: atom(), #{message := binary(), class := binary(), module := binary(), traceback := [map()], _ => _}}
    | timeout
    | cancelled
    | interrupted
    | stopped
    | {timeout | cancelled | interrupted | stopped, abandoned}
    | {deadlock, Chain :: non_neg_integer()}
    | overloaded
    | noproc
    | system_limit.
-type result() :: {ok, term()} | {error, error()}.


%% ---- calls ----

%% Calls Module.Function(*Args). The function may be dotted ('path.join' of os); the module may be a ref, and then the
%% function is one of its methods.
%%     {ok, 4.0} = py:call(math, sqrt, [16.0]).
-spec call(name() | ref(), name(), [term()]) -> result().
call(Module, Function, Args) when is_list(Args) ->
    py_request:run(py_request:default(Module), call, Module, Function, Args, [], ?TIMEOUT_MS, 0).

%% With keyword arguments, or in a context.
-spec call(name() | ref(), name(), [term()], kwargs()) -> result();
    (pid(), name() | ref(), name(), [term()]) -> result().
call(Context, Module, Function, Args) when is_pid(Context), is_list(Args) ->
    py_request:run(py_request:handle(Context), call, Module, Function, Args, [], ?TIMEOUT_MS, 0);
call(Module, Function, Args, Kwargs) when is_list(Args), is_map(Kwargs) ->
    py_request:run(py_request:default(Module), call, Module, Function, Args, Kwargs, ?TIMEOUT_MS, 0).

%% With a timeout in ms (default 30000, or infinity), or options.
%%     {error, timeout} = py:call(time, sleep, [60], #{}, 100).
-spec call(name() | ref(), name(), [term()], kwargs(), timeout() | options()) -> result();
    (pid(), name() | ref(), name(), [term()], kwargs()) -> result().
call(Context, Module, Function, Args, Kwargs) when is_pid(Context), is_list(Args), is_map(Kwargs) ->
    py_request:run(py_request:handle(Context), call, Module, Function, Args, Kwargs, ?TIMEOUT_MS, 0);
call(Module, Function, Args, Kwargs, Options) when is_list(Args), is_map(Kwargs) ->
    py_request:run(py_request:default(Module), call, Module, Function, Args, Kwargs, Options).

-spec call(pid(), name() | ref(), name(), [term()], kwargs(), timeout() | options()) -> result().
call(Context, Module, Function, Args, Kwargs, Options) when is_pid(Context), is_list(Args), is_map(Kwargs) ->
    py_request:run(py_request:handle(Context), call, Module, Function, Args, Kwargs, Options).

%% Calls without waiting and without an answer; an exception goes nowhere. It runs on even when the caller dies.
-spec cast(name() | ref(), name(), [term()]) -> ok | {error, overloaded | noproc | system_limit}.
cast(Module, Function, Args) when is_list(Args) ->
    py_request:submit(py_request:default(Module), make_ref(), call, Module, Function, Args, [], infinity, ?NO_REPLY).

-spec cast(name() | ref(), name(), [term()], kwargs()) -> ok | {error, overloaded | noproc | system_limit};
    (pid(), name() | ref(), name(), [term()]) -> ok | {error, overloaded | noproc | system_limit}.
cast(Context, Module, Function, Args) when is_pid(Context), is_list(Args) ->
    py_request:submit(py_request:handle(Context), make_ref(), call, Module, Function, Args, [], infinity, ?NO_REPLY);
cast(Module, Function, Args, Kwargs) when is_list(Args), is_map(Kwargs) ->
    py_request:submit(py_request:default(Module), make_ref(), call, Module, Function, Args, Kwargs, infinity, ?NO_REPLY).

-spec cast(pid(), name() | ref(), name(), [term()], kwargs()) -> ok | {error, overloaded | noproc | system_limit}.
cast(Context, Module, Function, Args, Kwargs) when is_pid(Context), is_list(Args), is_map(Kwargs) ->
    py_request:submit(py_request:handle(Context), make_ref(), call, Module, Function, Args, Kwargs, infinity, ?NO_REPLY).

%% Calls without waiting; await/1,2 gives the result. Only the caller may await it.
%%     Ref = py:spawn_call(math, sqrt, [16.0]), {ok, 4.0} = py:await(Ref).
-spec spawn_call(name() | ref(), name(), [term()]) -> reference().
spawn_call(Module, Function, Args) when is_list(Args) ->
    py_request:start(py_request:default(Module), Module, Function, Args, []).

-spec spawn_call(name() | ref(), name(), [term()], kwargs()) -> reference();
    (pid(), name() | ref(), name(), [term()]) -> reference().
spawn_call(Context, Module, Function, Args) when is_pid(Context), is_list(Args) ->
    py_request:start(py_request:handle(Context), Module, Function, Args, []);
spawn_call(Module, Function, Args, Kwargs) when is_list(Args), is_map(Kwargs) ->
    py_request:start(py_request:default(Module), Module, Function, Args, Kwargs).

-spec spawn_call(pid(), name() | ref(), name(), [term()], kwargs()) -> reference().
spawn_call(Context, Module, Function, Args, Kwargs) when is_pid(Context), is_list(Args), is_map(Kwargs) ->
    py_request:start(py_request:handle(Context), Module, Function, Args, Kwargs).

-spec await(reference()) -> result().
await(Ref) ->
    await(Ref, ?TIMEOUT_MS).

%% After Timeout ms the call is cancelled and its reply will not come. {error, noproc} when there is nothing to wait for: the
%% result was awaited before, or there is no such call.
-spec await(reference(), timeout()) -> result().
await(Ref, Timeout) ->
    py_request:await(Ref, Timeout).

%% ---- coroutines, on the context's loop ----

%% Calls Module.Function(*Args) on the context's loop: a coroutine function runs as a task, a plain function at once.
%%     Ref = py:async_call(asyncio, sleep, [0.1, done]), {ok, <<"done">>} = py:async_await(Ref).
-spec async_call(name() | ref(), name(), [term()]) -> reference().
async_call(Module, Function, Args) when is_list(Args) ->
    py_async:call(py_request:default(Module), Module, Function, {Args, []}).

-spec async_call(name() | ref(), name(), [term()], kwargs()) -> reference();
    (pid(), name() | ref(), name(), [term()]) -> reference().
async_call(Context, Module, Function, Args) when is_pid(Context), is_list(Args) ->
    py_async:call(py_request:handle(Context), Module, Function, {Args, []});
async_call(Module, Function, Args, Kwargs) when is_list(Args), is_map(Kwargs) ->
    py_async:call(py_request:default(Module), Module, Function, {Args, Kwargs}).

-spec async_call(pid(), name() | ref(), name(), [term()], kwargs()) -> reference().
async_call(Context, Module, Function, Args, Kwargs) when is_pid(Context), is_list(Args), is_map(Kwargs) ->
    py_async:call(py_request:handle(Context), Module, Function, {Args, Kwargs}).

-spec async_await(reference()) -> result().
async_await(Ref) ->
    async_await(Ref, ?TIMEOUT_MS).

%% After Timeout ms the coroutine is cancelled and its reply will not come. {error, noproc} as with await/2.
-spec async_await(reference(), timeout()) -> result().
async_await(Ref, Timeout) ->
    py_async:await(Ref, Timeout).

%% Cancels the coroutine: it gets CancelledError where it waits, and its await gives {error, cancelled}.
-spec async_cancel(reference()) -> ok | {error, done}.
async_cancel(Ref) ->
    py_async:cancel(Ref).

%% All of the calls at once, results in their order. If any fails: every failing index, counted from 1.
%%     {ok, [1, 2]} = py:async_gather([{asyncio, sleep, [0, 1]}, {asyncio, sleep, [0, 2]}]).
-spec async_gather([py_async:spec()]) -> py_async:gather_result().
async_gather(Specs) when is_list(Specs) ->
    py_async:gather(py_request:default(), Specs).

-spec async_gather([py_async:spec()], py_async:gather_options()) -> py_async:gather_result();
    (pid(), [py_async:spec()]) -> py_async:gather_result().
async_gather(Context, Specs) when is_pid(Context), is_list(Specs) ->
    py_async:gather(py_request:handle(Context), Specs);
async_gather(Specs, Options) when is_list(Specs), is_map(Options) ->
    py_async:gather(py_request:default(), Specs, Options).

-spec async_gather(pid(), [py_async:spec()], py_async:gather_options()) -> py_async:gather_result().
async_gather(Context, Specs, Options) when is_pid(Context), is_list(Specs), is_map(Options) ->
    py_async:gather(py_request:handle(Context), Specs, Options).

%% Module.Function(*Args) for each Args of the list, some at a time, results in the order of the list.
%%     {ok, [1.0, 2.0, 3.0]} = py:map(math, sqrt, [[1], [4], [9]]).
-spec map(name() | ref(), name(), [[term()]]) -> py_async:gather_result().
map(Module, Function, List) when is_list(List) ->
    py_async:map(py_request:default(Module), Module, Function, List, #{}).

-spec map(name() | ref(), name(), [[term()]], py_async:gather_options()) -> py_async:gather_result();
    (pid(), name() | ref(), name(), [[term()]]) -> py_async:gather_result().
map(Context, Module, Function, List) when is_pid(Context), is_list(List) ->
    py_async:map(py_request:handle(Context), Module, Function, List, #{});
map(Module, Function, List, Options) when is_list(List), is_map(Options) ->
    py_async:map(py_request:default(Module), Module, Function, List, Options).

-spec map(pid(), name() | ref(), name(), [[term()]], py_async:gather_options()) -> py_async:gather_result().
map(Context, Module, Function, List, Options) when is_pid(Context), is_list(List), is_map(Options) ->
    py_async:map(py_request:handle(Context), Module, Function, List, Options).

%% ---- iterators and generators, also async ones ----

%% All that Module.Function(*Args) yields, as a list.
%%     {ok, [0, 1, 2]} = py:stream(builtins, range, [3]).
-spec stream(name() | ref(), name(), [term()]) -> {ok, [term()]} | {error, error()}.
stream(Module, Function, Args) when is_list(Args) ->
    py_stream:collect(py_request:default(Module), call, Module, Function, Args, [], #{}).

-spec stream(name() | ref(), name(), [term()], kwargs()) -> {ok, [term()]} | {error, error()};
    (pid(), name() | ref(), name(), [term()]) -> {ok, [term()]} | {error, error()}.
stream(Context, Module, Function, Args) when is_pid(Context), is_list(Args) ->
    py_stream:collect(py_request:handle(Context), call, Module, Function, Args, [], #{});
stream(Module, Function, Args, Kwargs) when is_list(Args), is_map(Kwargs) ->
    py_stream:collect(py_request:default(Module), call, Module, Function, Args, Kwargs, #{}).

-spec stream(name() | ref(), name(), [term()], kwargs(), timeout() | options()) -> {ok, [term()]} | {error, error()};
    (pid(), name() | ref(), name(), [term()], kwargs()) -> {ok, [term()]} | {error, error()}.
stream(Context, Module, Function, Args, Kwargs) when is_pid(Context), is_list(Args), is_map(Kwargs) ->
    py_stream:collect(py_request:handle(Context), call, Module, Function, Args, Kwargs, #{});
stream(Module, Function, Args, Kwargs, Options) when is_list(Args), is_map(Kwargs) ->
    py_stream:collect(py_request:default(Module), call, Module, Function, Args, Kwargs, Options).

%% All that the iterable which an expression gives yields.
%%     {ok, [0, 1, 4]} = py:stream_eval(<<"(x * x for x in range(3))">>).
-spec stream_eval(iodata()) -> {ok, [term()]} | {error, error()}.
stream_eval(Expression) ->
    py_stream:collect(py_request:default(), eval, Expression, eval, none, [], #{}).

-spec stream_eval(iodata(), kwargs()) -> {ok, [term()]} | {error, error()};
    (pid(), iodata()) -> {ok, [term()]} | {error, error()}.
stream_eval(Context, Expression) when is_pid(Context) ->
    py_stream:collect(py_request:handle(Context), eval, Expression, eval, none, [], #{});
stream_eval(Expression, Locals) when is_map(Locals) ->
    py_stream:collect(py_request:default(), eval, Expression, eval, Locals, [], #{}).

-spec stream_eval(pid(), iodata(), kwargs()) -> {ok, [term()]} | {error, error()}.
stream_eval(Context, Expression, Locals) when is_pid(Context), is_map(Locals) ->
    py_stream:collect(py_request:handle(Context), eval, Expression, eval, Locals, [], #{}).

%% Sends what Module.Function(*Args) yields to the caller: {py_stream, Ref, {data, T}} for each item, at last once
%% {py_stream, Ref, done} or {py_stream, Ref, {error, E}}. With #{credit => N} no more than N items and those that
%% stream_ack/2 adds.
-spec stream_start(name() | ref(), name(), [term()]) -> {ok, reference()} | {error, noproc | system_limit}.
stream_start(Module, Function, Args) when is_list(Args) ->
    py_stream:start(py_request:default(Module), Module, Function, Args, [], #{}).

-spec stream_start(name() | ref(), name(), [term()], py_stream:options()) ->
    {ok, reference()} | {error, noproc | system_limit};
    (pid(), name() | ref(), name(), [term()]) -> {ok, reference()} | {error, noproc | system_limit}.
stream_start(Context, Module, Function, Args) when is_pid(Context), is_list(Args) ->
    py_stream:start(py_request:handle(Context), Module, Function, Args, [], #{});
stream_start(Module, Function, Args, Options) when is_list(Args), is_map(Options) ->
    py_stream:start(py_request:default(Module), Module, Function, Args, [], Options).

-spec stream_start(pid(), name() | ref(), name(), [term()], py_stream:options()) ->
    {ok, reference()} | {error, noproc | system_limit}.
stream_start(Context, Module, Function, Args, Options) when is_pid(Context), is_list(Args), is_map(Options) ->
    py_stream:start(py_request:handle(Context), Module, Function, Args, [], Options).

%% Lets the stream send N more items.
-spec stream_ack(reference(), pos_integer() | infinity) -> ok | {error, done}.
stream_ack(Ref, N) ->
    py_stream:ack(Ref, N).

%% Ends a stream; the generator's `finally` runs. After it no message of the stream comes to the caller who owns it.
-spec stream_cancel(reference()) -> ok.
stream_cancel(Ref) ->
    py_stream:cancel(Ref).

%% Interrupts what runs in a context now; those calls return {error, interrupted}. Later ones are untouched.
-spec interrupt(pid()) -> ok | {error, noproc}.
interrupt(Context) ->
    case py_request:handle(Context) of
        undefined -> {error, noproc};
        Handle when is_reference(Handle) -> py_nif:context_interrupt(Handle);
        Handle -> py_node:control(Handle, interrupt)
    end.

%% ---- source ----

%% The value of an expression in the context's namespace.
%%     {ok, 6} = py:eval(<<"x * 2">>, #{x => 3}).
-spec eval(iodata()) -> result().
eval(Expression) ->
    py_request:run(py_request:default(), eval, Expression, eval, none, [], ?TIMEOUT_MS, 0).

%% With names that only this expression sees.
-spec eval(iodata(), kwargs()) -> result();
    (pid(), iodata()) -> result().
eval(Context, Expression) when is_pid(Context) ->
    py_request:run(py_request:handle(Context), eval, Expression, eval, none, [], ?TIMEOUT_MS, 0);
eval(Expression, Locals) when is_map(Locals) ->
    py_request:run(py_request:default(), eval, Expression, eval, Locals, [], ?TIMEOUT_MS, 0).

-spec eval(iodata(), kwargs(), timeout() | options()) -> result();
    (pid(), iodata(), kwargs()) -> result().
eval(Context, Expression, Locals) when is_pid(Context), is_map(Locals) ->
    py_request:run(py_request:handle(Context), eval, Expression, eval, Locals, [], ?TIMEOUT_MS, 0);
eval(Expression, Locals, Options) when is_map(Locals) ->
    py_request:run(py_request:default(), eval, Expression, eval, Locals, [], Options).

-spec eval(pid(), iodata(), kwargs(), timeout() | options()) -> result().
eval(Context, Expression, Locals, Options) when is_pid(Context), is_map(Locals) ->
    py_request:run(py_request:handle(Context), eval, Expression, eval, Locals, [], Options).

%% Runs statements in the context's namespace (__main__), which all later calls to that context see.
%%     ok = py:exec(<<"def inc(x): return x + 1">>), {ok, 2} = py:call('__main__', inc, [1]).
-spec exec(iodata()) -> ok | {error, error()}.
exec(Source) ->
    py_request:run(py_request:default(), exec, Source, exec, none, [], ?TIMEOUT_MS, 0).

-spec exec(pid(), iodata()) -> ok | {error, error()};
    (iodata(), timeout() | options()) -> ok | {error, error()}.
exec(Context, Source) when is_pid(Context) ->
    py_request:run(py_request:handle(Context), exec, Source, exec, none, [], ?TIMEOUT_MS, 0);
exec(Source, Options) ->
    py_request:run(py_request:default(), exec, Source, exec, none, [], Options).

-spec exec(pid(), iodata(), timeout() | options()) -> ok | {error, error()}.
exec(Context, Source, Options) when is_pid(Context) ->
    py_request:run(py_request:handle(Context), exec, Source, exec, none, [], Options).

%% ---- objects that stay in Python ----

-spec getattr(ref(), name()) -> result().
getattr(Ref, Name) ->
    call_where(Ref, builtins, getattr, [Ref, Name]).

-spec getattr(pid(), ref(), name()) -> result().
getattr(Context, Ref, Name) ->
    call(Context, builtins, getattr, [Ref, Name]).

-spec call_method(ref(), name(), [term()]) -> result().
call_method(Ref, Method, Args) when is_tuple(Ref) ->
    call(Ref, Method, Args).

-spec call_method(ref(), name(), [term()], kwargs()) -> result();
    (pid(), ref(), name(), [term()]) -> result().
call_method(Context, Ref, Method, Args) when is_pid(Context), is_tuple(Ref) ->
    call(Context, Ref, Method, Args);
call_method(Ref, Method, Args, Kwargs) when is_tuple(Ref) ->
    call(Ref, Method, Args, Kwargs).

-spec call_method(pid(), ref(), name(), [term()], kwargs()) -> result().
call_method(Context, Ref, Method, Args, Kwargs) when is_pid(Context), is_tuple(Ref) ->
    call(Context, Ref, Method, Args, Kwargs).

%% The object by value: what its type allows (iterables become lists, objects maps of their attributes); an error where
%% it has no term.
-spec to_term(ref()) -> result().
to_term(Ref) ->
    call_where(Ref, 'erlang._codec', to_term, [Ref]).

-spec to_term(pid(), ref()) -> result().
to_term(Context, Ref) ->
    call(Context, 'erlang._codec', to_term, [Ref]).

-spec is_ref(term()) -> boolean().
is_ref({py_ref, Type, Resource}) -> is_binary(Type) andalso is_reference(Resource);
is_ref(_) -> false.

%% ---- contexts and the runtime ----

%% The default context.
-spec context() -> pid().
context() ->
    case py_context:default() of
        {Pid, _} -> Pid;
        undefined -> error(noproc)
    end.

%% The context of that name; or a new one with these options (py_context:start/1).
-spec context(atom()) -> pid() | undefined;
    (py_context:options()) -> {ok, pid()} | {error, term()}.
context(Name) when is_atom(Name) ->
    py_context:find(Name);
context(Options) when is_map(Options) ->
    py_context:start(Options).

%% Everything an operator may ask: versions, counters of live requests and refs, and each context with its queue, its
%% workers and what they run: #{id, module, function, caller, age_us, thread}.
-spec info() -> #{atom() => term()}.
info() ->
    (py_nif:counters())#{
        python => py_nif:python_version(),
        otp => list_to_binary(erlang:system_info(otp_release)),
        running_contexts => [Info || Pid <- py_context:list(), Info <- [py_context:info(Pid)], Info =/= undefined]
    }.

%% The Python stacks of all threads, also while they run: [{ThreadName, [Line]}]. Those of interpreters other than the
%% main one have their context in front.
-spec stacks() -> result().
stacks() ->
    py_interpreter:stacks().

%% Of the OS process of that context.
-spec stacks(pid()) -> result().
stacks(Context) ->
    admin_of(Context, stacks).

%% sys.version of the interpreter.
-spec version() -> result().
version() ->
    eval(<<"__import__('sys').version">>).

%% Objects, collections and allocated blocks of the main interpreter, the process's peak memory in bytes, and how many
%% other interpreters there are: with those `interpreters_left` behind, whose context has stopped and whom refs, threads or
%% calls that do not end still keep.
-spec memory_stats() -> result().
memory_stats() ->
    py_interpreter:memory_stats().

%% Of the OS process of that context.
-spec memory_stats(pid()) -> result().
memory_stats(Context) ->
    admin_of(Context, memory_stats).

%% Runs Python's cycle collector; gives the number of unreachable objects found.
-spec gc() -> result().
gc() ->
    call(gc, collect, []).

%% Of one generation, 0 to 2; or in a context.
-spec gc(0..2 | pid()) -> result().
gc(Context) when is_pid(Context) ->
    call(Context, gc, collect, []);
gc(Generation) ->
    call(gc, collect, [Generation]).

%% importlib.reload, importing the module first where it was not.
-spec reload(name()) -> result().
reload(Module) ->
    case py_context:info(context()) of
        #{isolation := thread} -> reload(py_interpreter:admin_context(), Module);
        _ -> reload(context(), Module)
    end.

-spec reload(pid(), name()) -> result().
reload(Context, Module) ->
    call(Context, 'erlang._admin', reload, [Module]).

%% Prints what Python does, once a second for 20 seconds: contexts, calls/s, busiest targets, running requests with age.
-spec top() -> ok.
top() ->
    py_top:run(#{}).

-spec top(py_top:options()) -> ok.
top(Options) ->
    py_top:run(Options).

%% Lets Python's log records cross from the level of OTP's logger on; see configure_logging/1.
-spec configure_logging() -> ok | {error, error()}.
configure_logging() ->
    py_logger:configure(#{}).

%% Python's records below `level` are dropped before they cross (at the start: below warning).
-spec configure_logging(py_logger:options()) -> ok | {error, error()}.
configure_logging(Options) ->
    py_logger:configure(Options).

%% An error of this module as text: an exception as Python would print it, with its traceback.
-spec format_error(error() | {error, error()}) -> unicode:chardata().
format_error(Error) ->
    py_error:format(Error).

%% ---- Python calls Erlang ----

%% Python calls it as erlang.call(Name, *Args), erlang.Name(*Args), or imports it from erlang. The fun gets the arguments
%% as its own: fun of arity N for N of them.
%%     ok = py:register_function(add, fun(A, B) -> A + B end), {ok, 3} = py:eval(<<"__import__('erlang').add(1, 2)">>).
-spec register_function(name(), py_callback:target_fun()) -> ok.
register_function(Name, Function) ->
    py_callback:add(Name, Function, #{}).

%% With a module and a function, or with options: binaries => bytes makes binaries of the result `bytes`.
-spec register_function(name(), module(), atom()) -> ok;
    (name(), py_callback:target_fun(), #{binaries => auto | bytes}) -> ok.
register_function(Name, Function, Options) when is_map(Options) ->
    py_callback:add(Name, Function, Options);
register_function(Name, Module, Function) when is_atom(Module), is_atom(Function) ->
    py_callback:add(Name, {Module, Function}, #{}).

-spec unregister_function(name()) -> ok.
unregister_function(Name) ->
    py_callback:remove(Name).

%% ---- shared state ----

%% The value under a key of the table that Python sees as erlang.state_get, `undefined` where there is none.
-spec state_get(term()) -> term().
state_get(Key) ->
    py_state:get(Key, undefined).

-spec state_get(term(), Default) -> term() | Default.
state_get(Key, Default) ->
    py_state:get(Key, Default).

-spec state_set(term(), term()) -> ok | {error, full}.
state_set(Key, Value) ->
    py_state:set(Key, Value).

-spec state_delete(term()) -> ok.
state_delete(Key) ->
    py_state:delete(Key).

-spec state_keys() -> [term()].
state_keys() ->
    py_state:keys().

%% Adds 1, or By, to a counter that begins at 0, and gives its new value. Atomic, also against Python.
-spec state_incr(term()) -> integer() | {error, full}.
state_incr(Key) ->
    py_state:incr(Key, 1).

-spec state_incr(term(), integer()) -> integer() | {error, full}.
state_incr(Key, By) ->
    py_state:incr(Key, By).

-spec state_decr(term()) -> integer() | {error, full}.
state_decr(Key) ->
    py_state:incr(Key, -1).

-spec state_decr(term(), integer()) -> integer() | {error, full}.
state_decr(Key, By) ->
    py_state:incr(Key, -By).

%% ---- inside ----

%% In the context where the ref's object lives.
-spec call_where(ref(), name(), name(), [term()]) -> result().
call_where(Ref, Module, Function, Args) ->
    py_request:run(py_request:default(Ref), call, Module, Function, Args, [], ?TIMEOUT_MS, 0).

-spec admin_of(pid(), stacks | memory_stats) -> result().
admin_of(Context, Function) ->
    case py_request:handle(Context) of
        undefined -> {error, noproc};
        Handle when is_reference(Handle) -> py_interpreter:Function();
        Handle -> py_node:control(Handle, {admin, Function})
    end.
