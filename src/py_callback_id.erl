%% The numbers by which events find what Python registered for them: one counter for the VM, without a lock. Numbers that
%% Python takes by itself begin at 2^62.
-module(py_callback_id).

-export([init/0]).
-export([next/0]).

-spec init() -> ok.
init() ->
    case persistent_term:get(?MODULE, undefined) of
        undefined -> persistent_term:put(?MODULE, atomics:new(1, [{signed, false}]));
        _ -> ok
    end.

%% A number that was never given before, from 1 on.
-spec next() -> pos_integer().
next() ->
    atomics:add_get(persistent_term:get(?MODULE), 1, 1).
