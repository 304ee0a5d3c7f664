"""Runs the benchmarks on several loops in one go and prints them side by side.

    python python/bench                               every loop at hand, quick (some minutes a loop)
    python python/bench --full                        more processes and values, 100,000 statements
    python python/bench --loops asyncio,uvloop --parts micro,async_tree --only 'sleep*'
    python python/bench --table results/*.json        the table of stored results

Parts take turns on the loops, so that what else the machine does falls on all of them alike. Results go to one pyperf
JSON file per loop, for `pyperf compare_to`, `pyperf stats` and others. The loops of the BEAM run under erlpy (--erlpy),
asyncio and uvloop under plain Python (--python); `asyncio@erlpy` is the stock loop inside the BEAM.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyperf
from pyperf._utils import is_significant

HERE = Path(__file__).resolve().parent
PARTS = ("micro", "async_tree", "executor_jobs", "network", "statements")
LOOPS = ("asyncio", "uvloop", "erlang-native", "erlang-beam")
QUICK = ["-p", "3", "-n", "3", "-w", "1", "--min-time", "0.05"]
CHECK = ["-p", "1", "-n", "1", "-w", "0", "-l", "1"]
FULL = ["-p", "10", "-n", "5", "-w", "1"]


def main() -> int:
    args = arguments()
    if args.table:
        print(table({Path(name).stem: pyperf.BenchmarkSuite.load(name) for name in args.table}))
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, pyperf.BenchmarkSuite] = {}
    failed: list[str] = []
    for part in args.parts:
        for loop in list(args.loops):
            print(f"--- {part} on {loop}", flush=True)
            suite, status = run_part(part, loop, args)
            if status != 0:
                failed.append(f"{part} on {loop}")
            if suite is None:
                continue
            for benchmark in suite.get_benchmarks():
                if loop in results:
                    results[loop].add_benchmark(benchmark)
                else:
                    results[loop] = pyperf.BenchmarkSuite([benchmark])
            results[loop].dump(str(args.output / f"{loop}.json"), replace=True)
    if results:
        print()
        print(table(results))
        print(f"\nstored in {args.output}/<loop>.json")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", type=lambda names: names.split(","), help="default: all that can run here")
    parser.add_argument("--parts", type=lambda names: names.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--only", default="*", help="names of benchmarks, with * and ?")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--check", action="store_true", help="every benchmark once, to see that it runs")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "_build" / "bench")
    parser.add_argument("--python", default=plain_python())
    parser.add_argument("--erlpy", default=str(HERE.parents[1] / "priv" / "erlpy"))
    parser.add_argument("--table", nargs="+", metavar="JSON")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(unknown)}")
    if args.loops is None:
        args.loops = [loop for loop in LOOPS if is_at_hand(loop, args)]
    return args


def plain_python() -> str:
    """The Python that runs this, or what it is built on when that is erlpy."""
    if "_erlang" not in sys.builtin_module_names:
        return sys.executable
    if venv := os.environ.get("VIRTUAL_ENV"):
        return str(Path(venv) / "bin" / "python")
    return str(Path(sys.base_prefix) / "bin" / "python3")


def interpreter(loop: str, args: argparse.Namespace) -> str:
    return str(args.erlpy if loop.startswith("erlang-") or loop.endswith("@erlpy") else args.python)


def environment() -> dict[str, str]:
    """erlpy finds the packages of a virtual environment by VIRTUAL_ENV alone."""
    found = dict(os.environ)
    if sys.prefix != sys.base_prefix:
        found.setdefault("VIRTUAL_ENV", sys.prefix)
    return found


def is_at_hand(loop: str, args: argparse.Namespace) -> bool:
    check = (
        f"import sys; sys.path.insert(0, {str(HERE)!r}); import pyperf, _loops; _loops.loop_factory({loop!r})().close()"
    )
    try:
        command = [interpreter(loop, args), "-c", check]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        if done.returncode == 0:
            return True
        reason = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    print(f"{loop}: skipped: {reason}", file=sys.stderr)
    return False


def run_part(part: str, loop: str, args: argparse.Namespace) -> tuple[pyperf.BenchmarkSuite | None, int]:
    """Run one file on one loop; what it measured, also when it failed at its end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        output = Path(directory) / "results.json"
        name = loop.removesuffix("@erlpy")
        command = [interpreter(loop, args), str(HERE / f"{part}.py"), "--loop", name, "--only", args.only]
        if part == "statements":
            size = ("100000", "5") if args.full else ("1000", "1") if args.check else ("20000", "3")
            command += ["-o", str(output), "--statements", size[0], "--samples", size[1]]
        else:
            command += ["--append", str(output), "--copy-env", "-q"] + (
                FULL if args.full else CHECK if args.check else QUICK
            )
        status = subprocess.run(command, cwd=HERE, env=environment()).returncode
        return (pyperf.BenchmarkSuite.load(str(output)) if output.exists() else None), status


def table(results: dict[str, pyperf.BenchmarkSuite]) -> str:
    """Medians; from the second loop on with how many times faster than the first, `~` where that is not significant."""
    loops = list(results)
    found = {loop: {b.get_name(): b for b in suite.get_benchmarks()} for loop, suite in results.items()}
    names = list(dict.fromkeys(name for of_loop in found.values() for name in of_loop))
    rows = [["benchmark", loops[0], *(f"{loop} (× {loops[0]})" for loop in loops[1:])]]
    for name in names:
        base = found[loops[0]].get(name)
        row = [f"`{name}`", "-" if base is None else base.format_value(base.median())]
        for loop in loops[1:]:
            row.append(cell(base, found[loop].get(name)))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(loops) + 1)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in rows
    )


def cell(base: pyperf.Benchmark | None, other: pyperf.Benchmark | None) -> str:
    if other is None:
        return "-"
    median = other.median()
    text = str(other.format_value(median))
    if base is None:
        return text
    try:
        sure = is_significant(base.get_values(), other.get_values())[0]
    except Exception:
        # One value, or all alike: no variance to test.
        sure = False
    return f"{text} ({'' if sure else '~'}{base.median() / median:.2f})"


if __name__ == "__main__":
    sys.exit(main())
