"""Measure the CPU seconds and the memory of a run, stage by stage: of this process and all processes below it.

Processes are sampled every two seconds and at both ends of a stage, as the kernel keeps no sums for those that nobody
waited for: what one uses after its last sample is missing. The workers of a cluster that ran before are not counted.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tasks.core.errors import SettingsError
from tasks.engines import cluster_connect
from tasks.settings import Settings

EVERY_S = 2.0  # with 30 processes a sample takes 12 ms
MB = 1_000_000


@dataclass(frozen=True)
class Usage:
    """cpu_s: user and system, of all processes. peak_mb: the most memory at one time, in 10^6 bytes."""

    cpu_s: float = 0.0
    peak_mb: int = 0


class Meter:
    """What the run and its stages use.

    CPU seconds of an interval in which several stages run are shared equally among them. A process counts with its
    resident memory without shared pages; the largest shared part, which Ray's object store is most of, counts once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[int, float], float] = {}  # CPU seconds by process number and start: numbers recur
        self._under_way: dict[str, Usage] = {}
        self._total = Usage()
        self._done = threading.Event()
        self._sample()
        self._total = Usage(peak_mb=self._total.peak_mb)  # what came before is not the run's
        self._thread = threading.Thread(target=self._watch, name="usage", daemon=True)
        self._thread.start()

    def begin(self, stage: str) -> None:
        with self._lock:
            self._sample()
            self._under_way[stage] = Usage()

    def end(self, stage: str) -> Usage:
        """Return what a stage has used since its beginning."""
        with self._lock:
            self._sample()
            return _rounded(self._under_way.pop(stage, Usage()))

    def total(self) -> Usage:
        """Return what the run has used until the last sample."""
        with self._lock:
            return _rounded(self._total)

    def close(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        used, private, shared = 0.0, 0, 0
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            with suppress(psutil.Error), process.oneshot():  # gone, or a zombie
                times, memory = process.cpu_times(), process.memory_info()
                key, now = (process.pid, process.create_time()), times.user + times.system
                used += now - self._seen.get(key, 0.0)
                self._seen[key] = now
                private += memory.rss - memory.shared
                shared = max(shared, memory.shared)
        peak_mb = (private + shared) // MB
        self._total = _sum(self._total, used, peak_mb)
        share = used / max(1, len(self._under_way))
        self._under_way = {stage: _sum(usage, share, peak_mb) for stage, usage in self._under_way.items()}


def cost(usage: Usage, settings: Settings) -> float | None:
    """Return the price of the CPU seconds; None without a price, and on a cluster, whose workers are not counted."""
    price = settings.tracking.price_per_core_hour
    with suppress(SettingsError):  # the run itself reports a wrong address
        if price is not None and cluster_connect.wanted(settings.ray) is None:
            return round(usage.cpu_s / 3600 * price, 6)
    return None


def _sum(usage: Usage, cpu_s: float, peak_mb: int) -> Usage:
    return Usage(usage.cpu_s + cpu_s, max(usage.peak_mb, peak_mb))


def _rounded(usage: Usage) -> Usage:
    return Usage(round(usage.cpu_s, 2), usage.peak_mb)
