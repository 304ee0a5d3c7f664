"""A PostgreSQL server for one benchmark: in a directory of its own, on loopback, gone afterwards."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from _loops import Unavailable


@contextmanager
def postgres() -> Iterator[str]:
    """Start the server and give its DSN; `Unavailable` where PostgreSQL is not installed."""
    programs = _programs()
    # PostgreSQL refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="bench-pg-") as directory:
        if user is not None:
            try:
                shutil.chown(directory, user)
            except LookupError as error:
                raise Unavailable("PostgreSQL does not run as root, and there is no user postgres") from error
        data = Path(directory) / "data"
        init: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "bench",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]
        subprocess.run(init, check=True, user=user, cwd=directory, stdout=subprocess.DEVNULL)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        options = f"-p {port} -h 127.0.0.1 -k {directory} -c fsync=off -c shared_buffers=32MB"
        # The shell ends with its input, so the server does not outlive us however we end.
        script = (
            f'"$0" -D {data} -w -o "{options}" -l {directory}/log start > /dev/null && echo ready && read _; '
            f'"$0" -D {data} -m immediate stop > /dev/null; rm -rf {directory}/*'
        )
        command = ["/bin/sh", "-c", script, str(programs / "pg_ctl")]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, user=user, cwd=directory, stdin=pipe, stdout=pipe, start_new_session=True
        ) as server:
            assert server.stdout is not None
            if server.stdout.readline() != b"ready\n":
                raise RuntimeError("PostgreSQL did not start")
            try:
                yield f"postgresql://bench@127.0.0.1:{port}/postgres"
            finally:
                assert server.stdin is not None
                server.stdin.close()
                server.wait()


def _programs() -> Path:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if places:
        return places[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).parent
    raise Unavailable("PostgreSQL is not installed (apt-get install postgresql)")
