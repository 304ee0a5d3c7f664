"""Runs CPython's own test.test_asyncio with the ErlangEventLoop in the place of asyncio's loop, and judges the outcome.

    referee.py                      all modules, on our loop and on the stock one, and the verdict
    referee.py test_events ...      these modules
    referee.py --loop erlang ...    our loop alone, without the comparison

A test that passes on the stock loop must pass on ours, in the second try at the latest, unless `not_applicable.json`
names it, with the reason. Each module runs in a process of its own (`sys.executable`, python or erlpy alike). Exit
status 0 if the verdict is good, or if this Python came without its tests, which is then said.

What is replaced: asyncio.SelectorEventLoop, asyncio.EventLoop and the default policy's loop. With `--base`, also
BaseEventLoop and BaseSelectorEventLoop, which tests build directly and feed with fake selectors: the C type then
runs under those, in the mode without a poller.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT = 600.0
GOOD = {"ok", "skipped", "xfail"}


BACKEND = "REFEREE_BACKEND"  # tells the children


def replace_loops(*, base: bool) -> None:
    """Puts our loops where the tests look for asyncio's."""
    import asyncio
    import asyncio.base_events
    import asyncio.selector_events
    import asyncio.unix_events
    import selectors

    from erlang._loop import ErlangEventLoop, LoopBase

    class SelectorEventLoop(ErlangEventLoop):
        """Epoll is what our poller is; on another selector the loop runs as it is told."""

        def __init__(self, selector: selectors.BaseSelector | None = None) -> None:
            if isinstance(selector, selectors.EpollSelector):
                selector.close()
                selector = None
            super().__init__(selector, backend=os.environ.get(BACKEND, "native") if selector is None else "native")

    unix = asyncio.unix_events
    if base:

        class BaseEventLoop(LoopBase, asyncio.base_events.BaseEventLoop):
            pass

        class BaseSelectorEventLoop(LoopBase, asyncio.selector_events.BaseSelectorEventLoop):
            pass

        asyncio.base_events.BaseEventLoop = asyncio.BaseEventLoop = BaseEventLoop
        asyncio.selector_events.BaseSelectorEventLoop = BaseSelectorEventLoop
    asyncio.SelectorEventLoop = unix.SelectorEventLoop = SelectorEventLoop
    asyncio.EventLoop = unix.EventLoop = SelectorEventLoop
    for name in ("_UnixDefaultEventLoopPolicy", "_DefaultEventLoopPolicy"):
        policy = getattr(unix, name, None)
        if policy is not None:
            policy._loop_factory = SelectorEventLoop


class Recorder(unittest.TextTestResult):
    """Keeps one word for each test; a failed subtest fails its test."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.words: dict[str, str] = {}
        self.details: dict[str, str] = {}

    def _note(self, test: unittest.TestCase, word: str, detail: str = "") -> None:
        name = test.id()
        if self.words.get(name, "ok") == "ok":
            self.words[name] = word
        if detail:
            self.details[name] = detail

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._note(test, "ok")

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._note(test, "fail", self._exc_info_to_string(err, test))

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._note(test, "error", self._exc_info_to_string(err, test))

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, "skipped")

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._note(test, "xfail")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._note(test, "xpass")

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._note(test, "fail", self._exc_info_to_string(err, test))


def run_module(module: str, loop: str, base: bool, out: Path, match: list[str]) -> None:
    """In the child: one module's tests, their words into `out`."""
    if loop == "erlang":
        replace_loops(base=base)
    from test import support

    support.use_resources = {"network": None, "cpu": None}
    loader = unittest.TestLoader()
    if match:
        loader.testNamePatterns = [f"*{m}*" for m in match]
    suite = loader.loadTestsFromModule(importlib.import_module(f"test.test_asyncio.{module}"))
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2, resultclass=Recorder).run(suite)
    assert isinstance(result, Recorder)
    out.write_text(json.dumps({"words": result.words, "details": result.details}))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads that a failed test left behind shall not keep us


def run_in_child(module: str, loop: str, base: bool, match: list[str], log: io.TextIOBase) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as tmp:
        out = Path(tmp) / "out.json"
        command = [sys.executable, "-X", "faulthandler", __file__, "--child", "--loop", loop, "--out", str(out)]
        command += ["--base"] * base + ["--match=" + m for m in match] + [module]
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        try:
            done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=env, timeout=TIMEOUT, check=False)
            status = f"exit status {done.returncode}"
        except subprocess.TimeoutExpired:
            status = f"no end in {TIMEOUT:.0f} s"
        if out.exists():
            return json.loads(out.read_text())
        return {"words": {f"test.test_asyncio.{module}": "crash"}, "details": {f"test.test_asyncio.{module}": status}}


def all_modules() -> list[str]:
    import test.test_asyncio

    folder = Path(test.test_asyncio.__file__ or "").parent
    return sorted(p.stem for p in folder.glob("test_*.py") if "windows" not in p.stem)


def not_applicable(*, base: bool) -> dict[str, str]:
    lists: dict[str, dict[str, str]] = json.loads((HERE / "not_applicable.json").read_text())
    listed = lists["loop"] | (lists["base"] if base else {})
    return {f"test.test_asyncio.{name}": reason for name, reason in listed.items()}


def judge(ours: dict[str, Any], stock: dict[str, Any] | None, listed: dict[str, str]) -> list[str]:
    """The tests that we owe."""
    if "crash" in ours["words"].values():
        return list(ours["words"])
    bad = [name for name, word in ours["words"].items() if word not in GOOD]
    if stock is not None:
        passing = {name for name, word in stock["words"].items() if word == "ok"}
        bad = [name for name in bad if name in passing]
        bad += [name for name in passing if name not in ours["words"] or ours["words"][name] == "skipped"]
    return sorted({name for name in bad if name not in listed})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules of test.test_asyncio; all when left out")
    parser.add_argument("--loop", choices=("erlang", "stock", "both"), default="both")
    parser.add_argument("--backend", choices=("native", "beam"), help="of our loop's poller")
    parser.add_argument("--base", action="store_true", help="also under BaseEventLoop, without a poller")
    parser.add_argument("--match", action="append", default=[], help="only tests whose name contains this")
    parser.add_argument("--log", default=os.devnull, help="the tests' own output goes here")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.backend:
        os.environ[BACKEND] = args.backend
    if args.child:
        run_module(args.modules[0], args.loop, args.base, args.out, args.match)

    try:
        modules = args.modules or all_modules()
    except ImportError:
        print("not run: this Python came without its own tests (Debian has them as libpython3.x-testsuite)")
        return 0
    listed = not_applicable(base=args.base)
    owed: list[str] = []
    total = 0
    start = time.monotonic()
    with open(args.log, "w") as log, contextlib.suppress(BrokenPipeError):
        for module in modules:
            both = args.loop == "both"
            ours = run_in_child(module, "erlang" if both else args.loop, args.base, args.match, log)
            stock = run_in_child(module, "stock", False, args.match, log) if both else None
            bad = judge(ours, stock, listed)
            if bad:  # once more, these alone: on a busy machine some of them are too slow for their own timeouts
                again = run_in_child(module, "erlang" if both else args.loop, args.base, bad, log)
                bad = [name for name in bad if again["words"].get(name) not in GOOD]
                ours["details"] |= again["details"]
            count = sum(word == "ok" for word in ours["words"].values())
            total += count
            owed += bad
            print(f"{module:28} {count:5} passed {len(bad):3} owed", flush=True)
            for name in bad:
                detail = ours["details"].get(name, "").strip().splitlines()
                print(f"    {name.removeprefix('test.test_asyncio.')}: {ours['words'].get(name, 'missing')}")
                print("        " + (detail[-1] if detail else ""), flush=True)
    print(
        f"{total} tests passed, {len(owed)} owed, {len(listed)} listed as not applicable, "
        f"{time.monotonic() - start:.0f} s, Python {sys.version.split()[0]}"
    )
    return 1 if owed else 0


if __name__ == "__main__":
    sys.exit(main())
