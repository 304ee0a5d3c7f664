"""priv/erlpy beside plain python: the same command lines, the same results. Runs inside erlpy."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

ERLPY = sys.executable
PYTHON = sys._base_executable

pytestmark = pytest.mark.skipif(Path(ERLPY).name != "erlpy", reason="for erlpy -m pytest")


def clean_env(extra: dict[str, str] | None = None) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "VIRTUAL_ENV"}
    return env | {"PYTHONDONTWRITEBYTECODE": "1"} | (extra or {})


def run(
    executable: str, args: list[str], *, stdin: bytes = b"", env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [executable, *args], input=stdin, capture_output=True, env=clean_env(env), cwd=cwd, timeout=60, check=False
    )


def both(args: list[str], **kwargs: object) -> subprocess.CompletedProcess[bytes]:
    """What erlpy did, having checked that python does the same."""
    ours = run(ERLPY, args, **kwargs)  # type: ignore[arg-type]
    theirs = run(PYTHON, args, **kwargs)  # type: ignore[arg-type]
    assert ours.returncode == theirs.returncode, ours.stderr.decode(errors="replace")
    assert plain(ours.stdout) == plain(theirs.stdout)
    assert plain(ours.stderr) == plain(theirs.stderr)
    return ours


def plain(output: bytes) -> bytes:
    return re.sub(rb"0x[0-9a-f]+|pid=\d+", b"?", output.replace(ERLPY.encode(), PYTHON.encode()))


def script(code: str) -> str:
    return textwrap.dedent(code)


# ---- exit codes ----


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("raise SystemExit", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit(-1)", 255),
        ("import sys; sys.exit('bye')", 1),
        ("1/0", 1),
        ("raise KeyboardInterrupt", -signal.SIGINT),
        ("import os; os._exit(9)", 9),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("import os, signal; os.kill(os.getpid(), signal.SIGUSR1)", -signal.SIGUSR1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP),
        ("import os, signal; os.kill(os.getpid(), signal.SIGCHLD)", 0),
        ("import os; print(1); os.dup2(os.open('/dev/full', os.O_WRONLY), 1)", 120),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0),
        ("import atexit; atexit.register(lambda: 1/0)", 0),
        ("class A:\n def __del__(self): print('deleted')\na = A()", 0),
        ("import threading, time\nt = threading.Thread(target=lambda: (time.sleep(.1), print('t')))\nt.start()", 0),
        ("import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()", 0),
    ],
)
def test_how_a_program_ends(code: str, status: int) -> None:
    assert both(["-c", code]).returncode == status


# ---- arguments, options, environment ----

FLAGS = "import sys; print(sys.flags, sys.warnoptions, sys._xoptions, sys.argv, sys.path[:1], __name__)"


@pytest.mark.parametrize(
    "args",
    [
        ["-V"],
        ["-VV"],
        ["-c"],
        ["/no/such/file.py"],
        ["-m", "no_such_module"],
        ["-c", FLAGS, "a", "-b", "--", "-c", "ä", ""],
        ["-X", "dev", "-c", FLAGS],
        ["-X", "utf8", "-X", "mine=1", "-c", FLAGS],
        ["-W", "error", "-c", FLAGS],
        ["-Werror", "-c", "import warnings; warnings.warn('x')"],
        ["-IBOOqsu", "-c", FLAGS],
        ["-bbPS", "-c", FLAGS],
        ["-E", "-c", FLAGS],
        ["-O", "-c", "assert 0"],
        ["-i", "-c", "print(1)"],
    ],
)
def test_options(args: list[str]) -> None:
    both(args, env={"PYTHONWARNINGS": "ignore::ImportWarning", "PYTHONUNBUFFERED": "1"})


def test_help_and_wrong_options() -> None:
    assert run(ERLPY, ["--help"]).returncode == 0
    assert both(["--nonsense"]).returncode == 2


def test_environment_variables() -> None:
    env = {"PYTHONOPTIMIZE": "2", "PYTHONUTF8": "1", "PYTHONPATH": "/tmp", "PYTHONHASHSEED": "1", "BINDIR": "mine"}
    both(["-c", "import sys, os; print(sys.flags, sys.path[:2], hash('x'), sorted(os.environ))"], env=env)
    both(["-c", "import os; print(os.environ['BINDIR'])"], env=env)


def test_bytes_that_are_no_utf8_survive() -> None:
    code = "import sys, os; print([os.fsencode(a) for a in sys.argv], os.fsencode(os.environ['X']))"
    for executable in (ERLPY, PYTHON):
        done = subprocess.run(
            [executable.encode(), b"-c", code.encode(), b"\xff\xfe"],
            env={**{k.encode(): v.encode() for k, v in clean_env().items()}, b"X": b"\xfc"},
            capture_output=True,
            check=True,
        )
        assert done.stdout == b"[b'-c', b'\\xff\\xfe'] b'\\xfc'\n"


def test_standard_input_is_the_program() -> None:
    both([], stdin=b"import sys; print(sys.argv, __name__)")
    both(["-", "a"], stdin=b"import sys; print(sys.argv, __name__); raise SystemExit(4)")
    both(["-c", "import sys; print(len(sys.stdin.buffer.read()))"], stdin=bytes(range(256)) * 40000)


def test_script_package_zip(tmp_path: Path) -> None:
    show = "import sys; print(sys.argv, sys.path[0], __name__, __file__)"
    (tmp_path / "one.py").write_text(show)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__main__.py").write_text(show)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("__main__.py", show)
    for args in (["one.py"], [str(tmp_path / "one.py")], ["pack"], ["z.zip"], ["-m", "pack"], ["-m", "one"]):
        both([*args, "x", "-y"], cwd=tmp_path)


def test_executable_and_prefix() -> None:
    done = run(ERLPY, ["-c", "import sys; print(sys.executable, sys._base_executable, sys.prefix, sys.orig_argv[0])"])
    executable, base, prefix, called = done.stdout.decode().split()
    assert (executable, prefix, called) == (ERLPY, sys.base_prefix, ERLPY)
    assert os.path.realpath(base) == os.path.realpath(PYTHON)


# ---- standard streams ----


def test_output_is_all_there() -> None:
    done = run(ERLPY, ["-c", "import sys; sys.stdout.write('x' * 5_000_000); sys.stderr.write('y' * 1_000_000)"])
    assert (len(done.stdout), len(done.stderr)) == (5_000_000, 1_000_000)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str) -> None:
    code = "import sys, os; os._exit(sum(1 << i for i in range(3) if (sys.stdin, sys.stdout, sys.stderr)[i] is None))"
    status = []
    for executable in (ERLPY, PYTHON):
        args = ["sh", "-c", f'exec "$0" -c "$1" {closed}', executable, code]
        status.append(subprocess.run(args, env=clean_env(), check=False).returncode)
    assert status[0] == status[1] > 0


def test_streams_stay_blocking() -> None:
    code = "import os; print([os.get_blocking(fd) for fd in (0, 1, 2)])"
    assert run(ERLPY, ["-c", code]).stdout == b"[True, True, True]\n"


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, args: list[str], env: dict[str, str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(args[0], args, env)
        self.seen = b""

    def until(self, text: bytes) -> None:
        while text not in self.seen:
            assert select.select([self.fd], [], [], 60)[0], self.seen
            self.seen += os.read(self.fd, 1000)
        self.seen = self.seen.split(text, 1)[1]

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def ended(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status


@pytest.mark.parametrize("extra", [{"TERM": "xterm"}, {"TERM": "dumb", "PYTHON_BASIC_REPL": "1"}], ids=["own", "basic"])
def test_a_terminal(extra: dict[str, str], tmp_path: Path) -> None:
    """The session is the same, and so is its exit status, which after Ctrl-C is not the same in all of Python's."""
    status = []
    for executable in (ERLPY, PYTHON):
        repl = Terminal([executable, "-q"], clean_env(extra | {"PYTHON_HISTORY": str(tmp_path / "history")}))
        repl.until(b">>> ")
        repl.type(b"import sys; print('tty', sys.stdin.isatty(), 40 + 2)\r")
        repl.until(b"tty True 42\r\n")
        repl.until(b">>> ")
        repl.type(b"import threading; _ = threading.Lock(); print(_.acquire(), 'lo' + 'cked') or _.acquire()\r")
        repl.until(b"True locked\r\n")
        repl.type(b"\x03")
        repl.until(b"KeyboardInterrupt")
        repl.until(b">>> ")
        repl.type(b"print('go' + 'on')\r")
        repl.until(b"goon\r\n")
        repl.until(b">>> ")
        repl.type(b"\x04")
        status.append(repl.ended())
    assert status[0] == status[1]


# ---- signals ----

BLOCKED = {
    "sleep": "import time; ready(); time.sleep(60)",
    "recv": "import socket; a, b = socket.socketpair(); ready(); a.recv(1)",
    "acquire": "import threading; lock = threading.Lock(); lock.acquire(); ready(); lock.acquire()",
    "join": "import threading, time; t = threading.Thread(target=time.sleep, args=(60,), daemon=True)\n"
    "t.start(); ready(); t.join()",
    "wait": "import subprocess; p = subprocess.Popen(['sleep', '60'], process_group=0, stdout=-3, stderr=-3)\n"
    "ready(); p.wait()",
    "compute": "ready()\nwhile True: pass",
}


@pytest.mark.parametrize("how", BLOCKED)
def test_interrupt(how: str) -> None:
    code = "def ready(): print('ready', flush=True)\n" + BLOCKED[how]
    with subprocess.Popen([ERLPY, "-c", code], stdout=-1, stderr=-1, env=clean_env()) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == -signal.SIGINT
    assert errors.endswith(b"KeyboardInterrupt\n") or b"KeyboardInterrupt\n" in errors


def test_handlers_run_on_the_main_thread() -> None:
    code = """
        import os, signal, threading, time
        stop = threading.Event()
        others = [threading.Thread(target=stop.wait) for _ in range(3)]
        for other in others: other.start()
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGWINCH", "SIGHUP", "SIGRTMAX"):
            seen = []
            number = getattr(signal, name)
            signal.signal(number, lambda *_: seen.append(threading.current_thread() is threading.main_thread()))
            threading.Thread(target=os.kill, args=(os.getpid(), number)).start()
            while not seen: time.sleep(0.01)
            print(name, seen)
        stop.set()
    """
    done = both(["-c", script(code)])
    assert done.stdout.count(b"[True]") == 9


def test_wakeup_fd_and_ignored_signals() -> None:
    both(
        [
            "-c",
            script("""
        import os, signal, socket
        a, b = socket.socketpair()
        b.setblocking(False)
        signal.set_wakeup_fd(b.fileno())
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.kill(os.getpid(), signal.SIGUSR1)
        print(a.recv(10))
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGUSR2)
        print([s for s in signal.valid_signals() if signal.getsignal(s) is not signal.SIG_DFL])
        print(signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]))
        os.kill(os.getpid(), signal.SIGTERM)
        print(signal.sigpending(), signal.sigwait([signal.SIGTERM]))
    """),
        ]
    )


def test_signals_ignored_from_outside_stay_ignored() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print(signal.getsignal(signal.SIGHUP))"
    done = subprocess.run(["sh", "-c", 'trap "" HUP; exec "$0" -c "$1"', ERLPY, code], capture_output=True, check=True)
    assert done.stdout == b"1\n"


def test_asyncio_signal_handler_and_subprocess() -> None:
    both(
        [
            "-c",
            script("""
        import asyncio, os, signal, sys
        async def main():
            got = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, got.set)
            os.kill(os.getpid(), signal.SIGTERM)
            await got.wait()
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(5)")
            print(await child.wait())
        asyncio.run(main())
    """),
        ]
    )


def test_faulthandler() -> None:
    done = run(ERLPY, ["-X", "faulthandler", "-c", "import ctypes; ctypes.string_at(0)"])
    assert done.returncode == -signal.SIGSEGV
    assert b"Current thread" in done.stderr
    assert b"\nThread" not in done.stderr


# ---- processes ----


def test_fork() -> None:
    done = both(
        [
            "-W",
            "error",
            "-c",
            script("""
        import atexit, os, sys
        atexit.register(lambda: print("exit", flush=True))
        for status in (0, 7):
            sys.stdout.flush()
            if not (pid := os.fork()):
                print("child", flush=True)
                if status: sys.exit(status)
                break
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        try:
            os.wait()
        except ChildProcessError:
            print("no more")
    """),
        ]
    )
    assert done.stdout.count(b"exit\n") == 3


def test_fork_in_a_thread_and_pty() -> None:
    both(
        [
            "-c",
            script("""
        import os, pty, threading
        def fork():
            if not (pid := os.fork()):
                os._exit(threading.current_thread() is threading.main_thread())
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        pid, fd = pty.fork()
        if not pid:
            print(os.isatty(0))
            raise SystemExit(3)
        print(os.read(fd, 100), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """),
        ]
    )


def test_a_forked_child_has_no_erlang() -> None:
    done = run(
        ERLPY,
        [
            "-c",
            script("""
        import os, erlang
        print(erlang.apply("erlang", "node", []), flush=True)
        kept = erlang.apply("erlang", "self", [])
        if os.fork():
            print(os.waitstatus_to_exitcode(os.wait()[1]))
        else:
            try:
                erlang.apply("erlang", "node", [])
            except RuntimeError as exc:
                print(exc)
            raise SystemExit(6)
    """),
        ],
    )
    assert done.stdout == b"nonode@nohost\na child of os.fork() has no Erlang to call\n6\n"
    assert done.stderr == b""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        script(f"""
        import erlang
        import multiprocessing
        def work(n): return n * n
        if __name__ == "__main__":
            context = multiprocessing.get_context("{method}")
            with context.Pool(2) as pool:
                print(pool.map(work, range(5)))
            child = context.Process(target=exit, args=(3,))
            child.start()
            child.join()
            print(child.exitcode)
    """)
    )
    done = run(ERLPY, [str(tmp_path / "program.py")])
    assert (done.stdout, done.returncode, done.stderr) == (b"[0, 1, 4, 9, 16]\n3\n", 0, b"")


def test_children_get_no_descriptor_of_the_emulator() -> None:
    both(
        [
            "-c",
            script("""
        import os, subprocess
        subprocess.run(["sh", "-c", "ls /proc/self/fd | wc -l"], close_fds=False)
        r, w = os.pipe()
        subprocess.run(["sh", "-c", f"echo handed over > /dev/fd/{w}"], pass_fds=[w])
        print(os.read(r, 20))
    """),
        ]
    )


def test_inherited_descriptors_stay(tmp_path: Path) -> None:
    r, w = os.pipe()
    subprocess.run([ERLPY, "-c", f"import os; os.write({w}, b'here')"], pass_fds=[w], env=clean_env(), check=True)
    assert os.read(r, 10) == b"here"
    os.close(r)
    os.close(w)


def test_nothing_is_left(tmp_path: Path) -> None:
    run(ERLPY, ["-c", "import os; os.abort()"], cwd=tmp_path)
    run(ERLPY, ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], cwd=tmp_path)
    assert [p for p in tmp_path.iterdir() if not p.name.startswith("core")] == []


# ---- environments ----


def test_virtual_environments(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    site = tmp_path / "env" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "only_here.py").write_text("")
    (tmp_path / "env" / "bin" / "erlpy").symlink_to(ERLPY)
    code = "import sys, only_here; print(sys.prefix, sys.base_prefix, sys.executable)"
    named = run(ERLPY, ["-c", code], env={"VIRTUAL_ENV": str(tmp_path / "env")})
    assert named.stdout.decode().split() == [str(tmp_path / "env"), sys.base_prefix, ERLPY]
    linked = run(str(tmp_path / "env" / "bin" / "erlpy"), ["-c", code])
    assert linked.stdout.decode().split() == [str(tmp_path / "env"), sys.base_prefix, str(tmp_path / "env/bin/erlpy")]


def test_venv_module_and_pip(tmp_path: Path) -> None:
    made = run(ERLPY, ["-m", "venv", str(tmp_path / "new")])
    assert made.returncode == 0, made.stderr
    assert os.path.realpath(tmp_path / "new" / "bin" / "python") == os.path.realpath(PYTHON)
    listed = run(ERLPY, ["-m", "pip", "list", "--format=freeze"], env={"VIRTUAL_ENV": str(tmp_path / "new")})
    assert listed.returncode == 0
    assert listed.stdout.startswith(b"pip==")


def test_a_wrong_environment_is_named() -> None:
    done = run(ERLPY, ["-c", "1"], env={"VIRTUAL_ENV": "/no/such/environment"})
    assert done.returncode == 1
    assert done.stderr.startswith(b"erlpy: /no/such/environment")
    assert done.stderr.count(b"\n") == 1
