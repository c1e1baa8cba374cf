"""Describe the machine that a case is measured on, and sample the memory of its processes."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.core.errors import UserError

LIBRARIES = ("ray", "modin", "pandas", "polars", "pyarrow", "numpy", "scipy", "scikit-learn", "xgboost", "optuna")


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores this process may use, bytes of memory, Python and library versions."""
    import psutil

    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": round(os.getloadavg()[0], 2),  # before the first run: above 0.5 the times are unreliable
        "platform": platform.platform(),
        "python": platform.python_version(),
        "libraries": versions,
    }


def needs_torch(case: str, extra: str) -> None:
    """Raise UserError, with the extra to install, where there is no torch."""
    if not find_spec("torch"):
        raise UserError(
            "torch is not installed", where=f"bench {case}", fix=f"pip install -c constraints.txt -e '.[{extra}]'"
        )


def gpu() -> str | None:
    """The name of the GPU that torch computes on; None without a GPU, or without torch."""
    if not find_spec("torch"):
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return match.group(1) if match else platform.processor() or platform.machine()


class PeakMemory:
    """Samples the memory of this process and its descendants while the `with` block runs.

    Many processes map the same shared memory (Ray's object store), so this sums the proportional set size (PSS), in
    which each page counts once; on a system without it, the resident set size. Children older than the block count only
    with `count_earlier_children`. A process still counts after its parent's end.
    """

    def __init__(self, *, count_earlier_children: bool = True, interval_s: float = 0.2) -> None:
        import psutil

        self.peak_bytes = 0
        self._interval_s = interval_s
        self._psutil = psutil
        self._me = psutil.Process()
        self._seen: set[Any] = {self._me}
        self._ignored = set() if count_earlier_children else set(self._me.children(recursive=True))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.sample()

    def sample(self) -> int:
        """Return the bytes of all counted processes now."""
        below = set(self._me.children(recursive=True))
        for orphan in self._seen - below - {self._me}:
            try:
                below.update([orphan, *orphan.children(recursive=True)])
            except self._psutil.Error:  # gone
                continue
        self._seen = below | {self._me}
        total = sum(self._bytes(process) for process in self._seen - self._ignored)
        self.peak_bytes = max(self.peak_bytes, total)
        return total

    def _watch(self) -> None:
        cost_s = 0.0
        # With many processes a sample is expensive: use at most a tenth of a core.
        while not self._done.wait(max(self._interval_s, 9 * cost_s)):
            started = time.perf_counter()
            self.sample()
            cost_s = time.perf_counter() - started

    def _bytes(self, process: Any) -> int:
        try:
            try:
                memory = process.memory_full_info()
            except self._psutil.AccessDenied:
                memory = process.memory_info()
        except self._psutil.Error:  # gone, or a zombie
            return 0
        return int(getattr(memory, "pss", memory.rss))
