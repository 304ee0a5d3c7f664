"""ErlangEventLoop: asyncio's selector loop over the C poller and hot path of `_erlang.LoopBase`.

Everything that is not here or in C is CPython's own: transports, TLS, pipes, subprocesses, servers, name resolution,
executors, signals, async generators. docs/loop.md says what differs.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import selectors
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from _erlang import LoopBase
from erlang._selector import PollerSelector

if TYPE_CHECKING:
    from typing import TypeVarTuple

    from erlang._events import Events

    Ts = TypeVarTuple("Ts")

# asyncio reads 256 KiB at once, a buffer the allocator maps and unmaps for each read. Below its mmap threshold a small
# message costs a third.
_READ_SIZE = 64 * 1024

_RETRY_S = 0.05

_loops: weakref.WeakSet[ErlangEventLoop] = weakref.WeakSet()


class ErlangEventLoop(LoopBase, asyncio.SelectorEventLoop):
    """An asyncio event loop whose hot path is C, and into which Erlang can post.

    `selector`: run on a selector of your own, as asyncio.SelectorEventLoop does; most of the speed, and events from
    Erlang, are only there without it. `spin_us`: how long a loop that ran dry looks for work before it sleeps, in
    microseconds; by default 20, and 0 on a machine with one core. `backend`: "native", or "beam" to have the emulator
    watch the fds and keep the timers (docs/loop.md).

        >>> import asyncio, erlang
        >>> asyncio.run(asyncio.sleep(0, "done"), loop_factory=erlang.ErlangEventLoop)
        'done'
    """

    _erlang_events: Events | None = None

    def __init__(
        self, selector: selectors.BaseSelector | None = None, *, spin_us: int = -1, backend: str = "native"
    ) -> None:
        self._on_beam = backend == "beam"
        if backend not in ("native", "beam") or (self._on_beam and selector is not None):
            self._closed = True  # or it would say, when it goes, that nobody closed it
            raise ValueError(f"backend must be 'native', or 'beam' without a selector, not {backend!r}")
        self._on_poller = selector is None
        if selector is None:
            selector = PollerSelector(self)
            self._on_beam = self._use_poller(selector, spin_us, self._on_beam)  # not in a forked child
        super().__init__(selector)
        _loops.add(self)
        if self._on_beam:
            self._use_beam()

    def _use_beam(self) -> None:
        from erlang._events import events_of

        events_of(self).port.use_beam()

    def _use_beam_again(self) -> None:
        """Another event process in place of one that died; while none can be had, timers go on and fds wait."""
        if not self._closed:
            try:
                self._use_beam()
            except RuntimeError:
                self.call_later(_RETRY_S, self._use_beam_again)

    if sys.version_info < (3, 13):

        def _run_forever_setup(self) -> None:
            self._check_closed()
            self._check_running()
            self._set_coroutine_origin_tracking(self._debug)
            self._old_agen_hooks = sys.get_asyncgen_hooks()
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
            asyncio.events._set_running_loop(self)

        def _run_forever_cleanup(self) -> None:
            self._stopping = False
            self._thread_id = None
            asyncio.events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*self._old_agen_hooks)

    def run_forever(self) -> None:
        """Run until stop() is called."""
        self._run_forever_setup()
        watching = False
        try:
            watching = self._watch_signals()
            self._run_until_stopped()
        finally:
            if watching and not self._signal_handlers:
                signal.set_wakeup_fd(-1)
            self._run_forever_cleanup()

    # Other threads wake the poller itself. A socket pair is made only for signals, which Python reports by a byte.

    def _watch_signals(self) -> bool:
        """On the main thread, have a signal end the loop's sleep whichever thread of the process gets it."""
        if not self._on_poller or threading.current_thread() is not threading.main_thread():
            return False
        self._make_signal_pipe()
        try:
            before = signal.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        except ValueError:  # not the main interpreter
            return False
        if before not in (-1, self._csock.fileno()):  # somebody else listens already
            signal.set_wakeup_fd(before)
            return False
        return True

    def _make_signal_pipe(self) -> None:
        if self._csock is None:
            super()._make_self_pipe()

    def _make_self_pipe(self) -> None:
        if self._on_poller:
            self._ssock = self._csock = None
            self._internal_fds += 1
        else:
            super()._make_self_pipe()

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()
        if self._on_poller:
            self._internal_fds -= 1

    def add_signal_handler(self, sig: int, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call the callback when the signal comes. Only for a loop of Python's main thread."""
        if not self._closed:
            self._make_signal_pipe()
        super().add_signal_handler(sig, callback, *args)

    # What Erlang tells this loop: erlang._events.

    def _register_async_future(self, number: int) -> asyncio.Future[Any]:
        """A future for the result that Erlang gives under a number of py_callback_id."""
        from erlang._events import events_of

        return events_of(self).future(number)

    _register_call_future = _register_async_future

    def _register_event(self, number: int, handler: Callable[[int, Any], object]) -> None:
        """Calls handler(type, data) for each event under the number."""
        from erlang._events import events_of

        events_of(self).register(number, handler)

    def _unregister_event(self, number: int) -> bool:
        """Forgets the number; what comes under it later is dropped."""
        return self._erlang_events is not None and self._erlang_events.unregister(number)

    def _register_socket(
        self, number: int, kind: str, addresses: tuple[Any, Any], protocol: asyncio.BaseProtocol
    ) -> asyncio.BaseTransport:
        """The transport of a gen_tcp ("tcp") or gen_udp ("udp") socket that the event process has under the number."""
        from erlang._events import events_of

        return events_of(self).attach(number, kind, addresses, protocol)

    async def _register_subprocess(
        self,
        protocol_factory: Callable[[], asyncio.SubprocessProtocol],
        program: str,
        *args: str | bytes,
        **options: Any,
    ) -> tuple[asyncio.SubprocessTransport, asyncio.SubprocessProtocol]:
        """Starts a program by a port of Erlang's. Options: cwd, env, stderr_to_stdout."""
        from erlang._events import events_of

        return await events_of(self).open_program(protocol_factory, program, args, **options)

    def close(self) -> None:
        """Close the loop, which must not be running."""
        if self._erlang_events is not None and not self.is_running():
            self._erlang_events.close()
        super().close()

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> Any:
        return _read_less(super()._make_socket_transport(*args, **kwargs))

    def _make_datagram_transport(self, *args: Any, **kwargs: Any) -> Any:
        return _read_less(super()._make_datagram_transport(*args, **kwargs))

    def _make_read_pipe_transport(self, *args: Any, **kwargs: Any) -> Any:
        return _read_less(super()._make_read_pipe_transport(*args, **kwargs))


def _read_less(transport: Any) -> Any:
    transport.max_size = _READ_SIZE
    return transport


def new_event_loop(*, backend: str = "native") -> ErlangEventLoop:
    """A new `ErlangEventLoop`, for `asyncio.run(main(), loop_factory=erlang.new_event_loop)`."""
    return ErlangEventLoop(backend=backend)


def steps() -> dict[int, tuple[int, bool]]:
    """For each loop that runs, by thread: how often it has polled, and whether it waits there now."""
    found = {}
    for loop in list(_loops):
        thread: int | None = loop._thread_id
        if thread is not None:
            found[thread] = (loop._steps, loop._waiting)
    return found
