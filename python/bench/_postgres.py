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
        control: list[str | Path] = [programs / "pg_ctl", "-D", data, "-w"]
        start = [*control, "-o", options, "-l", Path(directory) / "log", "start"]
        subprocess.run(start, check=True, user=user, cwd=directory, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://bench@127.0.0.1:{port}/postgres"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, user=user, cwd=directory, stdout=subprocess.DEVNULL)


def _programs() -> Path:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if places:
        return places[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).parent
    raise Unavailable("PostgreSQL is not installed (apt-get install postgresql)")
