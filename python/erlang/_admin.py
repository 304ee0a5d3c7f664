"""What an operator asks of an interpreter, for py:stacks/0, py:memory_stats/0 and py:reload/1."""

from __future__ import annotations

import gc
import importlib
import resource
import sys
import threading
import traceback
from types import ModuleType

import _erlang


def stacks() -> list[tuple[str, list[str]]]:
    """The stack of every thread that runs Python, outermost call first: (thread name, lines)."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    here = threading.get_ident()
    found = []
    for ident, frame in _erlang.current_frames().items():
        if ident == here:
            continue
        lines = [
            f'File "{entry.filename}", line {entry.lineno}, in {entry.name}' for entry in traceback.extract_stack(frame)
        ]
        found.append((names.get(ident, f"thread-{ident}"), lines))
    return found


def stacks_by_thread() -> dict[int, list[str]]:
    """The same by thread identifier."""
    return {
        ident: [f"{entry.filename}:{entry.lineno} in {entry.name}" for entry in traceback.extract_stack(frame)]
        for ident, frame in _erlang.current_frames().items()
    }


def loop_steps() -> dict[int, tuple[int, bool]]:
    """What the loops do, for py_watch; nothing where no loop was ever made."""
    module = sys.modules.get("erlang._loop")
    return {} if module is None else module.steps()


def memory_stats() -> dict[str, object]:
    """Counts of objects and memory blocks, the collector's generations, and the process's peak size in bytes."""
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "objects": len(gc.get_objects()),
        "allocated_blocks": sys.getallocatedblocks(),
        "generations": gc.get_stats(),
        "thresholds": gc.get_threshold(),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale,
    }


def reload(name: str) -> bool:
    """Reloads a module, or imports it where it was not; True when it was reloaded."""
    module: ModuleType | None = sys.modules.get(name)
    if module is None:
        importlib.import_module(name)
        return False
    importlib.reload(module)
    return True
