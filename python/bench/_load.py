"""Load on a server of this process from client processes, which live as long as this process does."""

from __future__ import annotations

import asyncio
import atexit
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import NamedTuple

CLIENTS = 10


class Spent(NamedTuple):
    """Seconds: on the clock, of CPU in the server's process, of CPU on the loop's thread."""

    wall: float
    process: float
    thread: float


def client_python() -> str:
    """A plain Python to run clients with: inside the BEAM sys.executable is the launcher of the BEAM."""
    if chosen := os.environ.get("BENCH_CLIENT_PYTHON"):
        return chosen
    if "_erlang" in sys.builtin_module_names:
        return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
    return sys.executable


class Load:
    """`CLIENTS` client processes."""

    def __init__(self) -> None:
        command = [client_python(), "-I", str(Path(__file__).with_name("_client.py"))]
        self._clients = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            for _ in range(CLIENTS)
        ]

    async def spend(self, kind: str, address: str, requests: int, size: int) -> Spent:
        """Connect the clients, have each make `requests` requests of `size` bytes; what the requests took."""
        await self._all(f"connect {kind} {address}")
        # One request each before the clock runs: accepting is not measured.
        await self._all(f"run 1 {size}")
        process, thread, wall = process_time(), thread_time(), perf_counter()
        await self._all(f"run {requests} {size}")
        spent = Spent(perf_counter() - wall, process_time() - process, thread_time() - thread)
        await self._all("close")
        return spent

    def end(self) -> None:
        """Stop the clients."""
        for client in self._clients:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.close()
            client.stdout.close()
            client.wait()

    async def _all(self, command: str) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._command, command)

    def _command(self, command: str) -> None:
        for client in self._clients:
            assert client.stdin is not None
            client.stdin.write(command + "\n")
        for client in self._clients:
            assert client.stdout is not None
            if client.stdout.readline() != "ok\n":
                raise RuntimeError(f"a client failed at: {command}")


@cache
def shared_load() -> Load:
    """The clients of this process, started at first use."""
    load = Load()
    atexit.register(load.end)
    return load
