"""The Python half of the library demonstration: reads source files and says what is in them."""

from __future__ import annotations

import ast
import hashlib
import sqlite3
import sysconfig
from pathlib import Path

ROOT = Path(sysconfig.get_path("stdlib"))
SKIPPED = {"test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__"}


def files() -> list[str]:
    """Every source file of the standard library but its tests, relative to its root."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(str(path) for path in found if not SKIPPED.intersection(path.parts))


def analyse(name: str) -> dict[str, object]:
    """Parses one file and counts what it defines."""
    data = (ROOT / name).read_bytes()
    tree = ast.parse(data, name)
    functions = classes = branches = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions += 1
        elif isinstance(node, ast.ClassDef):
            classes += 1
        elif isinstance(node, ast.If | ast.For | ast.While | ast.Try | ast.Match):
            branches += 1
    return {
        "package": name.split("/")[0].removesuffix(".py"),
        "sha256": hashlib.sha256(data).hexdigest(),
        "lines": data.count(b"\n"),
        "functions": functions,
        "classes": classes,
        "branches": branches,
    }


def open_table() -> sqlite3.Connection:
    """A database in memory; the connection stays in Python, Erlang holds a reference to it."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    db.execute(
        "create table file (name text primary key, package text, lines int, functions int, classes int,"
        " branches int, sha256 text)"
    )
    return db


def store(db: sqlite3.Connection, name: str, found: dict[str, object]) -> None:
    """Puts what Erlang got from analyse() into the table."""
    row = {"name": name} | {str(key): value for key, value in found.items()}
    db.execute("insert into file values (:name, :package, :lines, :functions, :classes, :branches, :sha256)", row)


def largest(db: sqlite3.Connection, count: int) -> list[tuple[object, ...]]:
    """The packages with most lines."""
    return db.execute(
        "select package, count(*), sum(lines), sum(functions), sum(classes), sum(branches) from file"
        " group by package order by sum(lines) desc limit ?",
        (count,),
    ).fetchall()


def totals(db: sqlite3.Connection) -> tuple[object, ...]:
    """Files, lines, functions, classes, and files whose contents are unique."""
    return db.execute(
        "select count(*), sum(lines), sum(functions), sum(classes), count(distinct sha256) from file"
    ).fetchone()


def run_away() -> None:
    """Never ends by itself."""
    while True:
        pass


def parse_nonsense() -> None:
    """Raises, two calls down."""
    ast.parse("def broken(:\n", "nonsense.py")
