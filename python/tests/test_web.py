"""A Starlette application under uvicorn: `erlpy -m uvicorn` beside `python -m uvicorn`, and one in this process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

erlang = pytest.importorskip("erlang", reason="only inside the BEAM")
httpx = pytest.importorskip("httpx")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

ERLPY = [sys.executable, "--loop", "erlang:new_event_loop"]
ERLPY_BEAM = [sys.executable, "--loop", "_web_app:beam_loop"]
PYTHON = [f"{sys.prefix}/bin/python", "--loop", "asyncio"]

pytestmark = pytest.mark.skipif(Path(sys.executable).name != "erlpy", reason="for erlpy -m pytest")


class Program:
    """uvicorn in an OS process of its own."""

    def __init__(self, command: list[str], *options: str) -> None:
        executable, *loop = command
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.process = subprocess.Popen(
            [executable, "-m", "uvicorn", "_web_app:app", "--port", "0", "--no-use-colors", *loop, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=Path(__file__).parent,
            env=env | {"VIRTUAL_ENV": sys.prefix, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.output = ""
        self.url = self.wait_for(r"running on (http://127\.0\.0\.1:\d+)")

    def wait_for(self, pattern: str) -> str:
        """Reads the output until a line matches; its first group, or the match."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found.group(found.re.groups)
        raise AssertionError(f"no {pattern!r} in\n{self.output}")

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit status, when it has ended."""
        rest, _ = self.process.communicate(timeout=60)
        self.output += rest
        return self.process.returncode


@pytest.fixture
def programs() -> Iterator[list[Program]]:
    """Put programs here: they are killed in the end."""
    started: list[Program] = []
    yield started
    for program in started:
        program.process.kill()
        program.process.wait()
        assert program.process.stdout is not None
        program.process.stdout.close()


@pytest.mark.parametrize("command", [ERLPY, ERLPY_BEAM], ids=["native", "beam"])
def test_answers(programs: list[Program], command: list[str]) -> None:
    programs.append(server := Program(command))

    async def main() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            assert (await client.get("/loop")).text == "ErlangEventLoop"
            assert (await client.get("/thread")).text == "True"
            assert (await client.get("/numbers/100")).text.split() == [str(n) for n in range(100)]
            assert (await client.get("/nowhere")).status_code == 404
            bodies = [os.urandom(n).hex() for n in range(200)]
            answers = await asyncio.gather(*(client.post("/upper", content=body) for body in bodies))
            assert [answer.text for answer in answers] == [body.upper() for body in bodies]

    erlang.run(main())


def test_calls_erlang(programs: list[Program]) -> None:
    programs.append(server := Program(ERLPY))
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.get("/reverse").json() == [3, 2, 1]
        failed = client.get("/fail")
        assert failed.status_code == 500
        assert failed.text.startswith("ErlangError: exception error: ")
        assert client.get("/reverse").json() == [3, 2, 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_gracefully(programs: list[Program], number: signal.Signals) -> None:
    ends = []
    for command in (ERLPY, ERLPY_BEAM, PYTHON):
        programs.append(server := Program(command))
        assert httpx.get(f"{server.url}/numbers/3", timeout=60).text == "0\n1\n2\n"
        server.send_signal(number)
        ends.append((server.ended(), re.sub(r"\d+", "N", server.output)))
    assert ends[0] == ends[1] == ends[2]
    assert "lifespan begins" in ends[0][1]
    assert "lifespan ends" in ends[0][1]
    assert "Traceback" not in ends[0][1]


def test_signal_waits_for_requests(programs: list[Program]) -> None:
    programs.append(server := Program(ERLPY))
    with httpx.Client(base_url=server.url, timeout=60) as client, client.stream("GET", "/endless") as stream:
        received = stream.iter_raw(1000)
        assert next(received) == b"x" * 1000
        server.send_signal(signal.SIGINT)
        server.wait_for("Waiting for connections to close")
        assert next(received) == b"x" * 1000
    assert server.ended() == 0
    # Starlette does not close the generator of a response that its client left: it goes with its task or with the loop.
    assert "stream closed" in server.output
    assert server.output.index("Waiting for connections to close") < server.output.index("lifespan ends")


def test_both_ends_in_this_process() -> None:
    """The server on a thread's loop by asyncio.Runner, the client on this thread's."""
    from _web_app import app

    class Server(uvicorn.Server):
        async def startup(self, sockets: object = None) -> None:
            await super().startup(sockets)  # type: ignore[arg-type]
            started.set()

    started = threading.Event()
    server = Server(uvicorn.Config(app, port=0, log_level="warning"))

    def serve() -> None:
        with asyncio.Runner(loop_factory=erlang.new_event_loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(60)
    port = server.servers[0].sockets[0].getsockname()[1]

    async def main() -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert (await client.get("/loop")).text == "ErlangEventLoop"
            bodies = [str(n) * n for n in range(100)]
            answers = await asyncio.gather(*(client.post("/upper", content=body) for body in bodies))
            assert [answer.text for answer in answers] == bodies

    erlang.run(main())
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
