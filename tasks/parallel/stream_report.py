"""What a stream did: rates, latencies from the intended arrival, goodput, what was lost.

What is kept while it runs does not grow with it: a stream may have no end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tasks.core.errors import InputError
from tasks.parallel.stream_arrivals import Times

PERCENTILES = (50.0, 95.0, 99.0)
SAMPLE = 1 << 20  # latencies that are kept, 8 MB
ERRORS = 100  # the last ones are kept
OPEN_S = 60  # seconds for which arrivals may still come late or out of order


@dataclass(frozen=True)
class Report:
    """Counts are of records, latencies of those that were scored, in seconds.

    latency: from the time at which a record was due until it was scored. after_sending: from when it was sent to a
    worker, which leaves out how long it waited; a closed loop measures this. Of more than SAMPLE records the
    percentiles are those of as many, drawn at random; `max` is that of all. goodput: records a second that were scored
    within the deadline. worst_second: the largest relative error of the arrivals within a whole second. lag_s: the
    longest that an arrival was noticed too late. drain_s: how long after the last arrival the last record was done.
    errors: the last ERRORS of them.
    """

    seconds: float
    arrived: int
    scored: int
    dropped: int
    failed: int
    latency: dict[str, float]
    after_sending: dict[str, float]
    goodput: float
    arrival_rate: float
    worst_second: float
    lag_s: float
    drain_s: float
    most_waiting: int
    deaths: int
    gave_up: bool
    errors: list[str]


class Sample:
    """Values of which at most `size` are kept, each with the same chance (Vitter 1985, algorithm R), and the largest.

    Seeded: the same values in the same order give the same sample.
    """

    def __init__(self, size: int = SAMPLE, seed: int = 7) -> None:
        self._kept, self._seen, self._largest = np.empty(0), 0, -np.inf
        self._size, self._rng = size, np.random.default_rng(seed)

    def add(self, values: Times) -> None:
        self._largest = max(self._largest, float(values.max(initial=-np.inf)))
        first, rest = values[: max(0, self._size - self._seen)], values[max(0, self._size - self._seen) :]
        self._keep(first)
        if len(rest):
            place = self._rng.integers(0, np.arange(self._seen + 1, self._seen + 1 + len(rest)))
            self._kept[place[place < self._size]] = rest[place < self._size]
            self._seen += len(rest)

    def _keep(self, values: Times) -> None:
        """Append to what is kept, in room that grows by doubling."""
        end = self._seen + len(values)
        if end > len(self._kept):
            room = np.empty(min(self._size, max(1024, 2 * end)))
            room[: self._seen] = self._kept[: self._seen]
            self._kept = room
        self._kept[self._seen : end] = values
        self._seen = end

    def percentiles(self) -> dict[str, float]:
        """Return p50, p95, p99 and max: values that occurred; {} if there are none."""
        if not self._seen:
            return {}
        found = np.percentile(self._kept[: self._seen], PERCENTILES, method="higher")
        return {**{f"p{p:g}": float(v) for p, v in zip(PERCENTILES, found, strict=True)}, "max": self._largest}


@dataclass
class Meter:
    """Collects while the stream runs. `began`: when it was started, or the first arrival, if that is later."""

    deadline_s: float
    began: float
    arrived: int = 0
    scored: int = 0
    dropped: int = 0
    failed: int = 0
    in_time: int = 0
    deaths: int = 0
    most_waiting: int = 0
    lag_s: float = 0.0
    last_arrival: float = 0.0
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=ERRORS))
    _latency: Sample = field(default_factory=Sample)
    _sending: Sample = field(default_factory=Sample)
    _due: dict[int, int] = field(default_factory=dict)  # records by the second in which they were due
    _noticed: dict[int, int] = field(default_factory=dict)  # and by that in which they were taken notice of
    _open: int = 0  # the first second that may still get some
    _worst_second: float = 0.0  # of those before

    def arrive(self, now: float, due: Times) -> None:
        if not self.arrived:
            self.began = max(self.began, float(due[0]))
        self.arrived += len(due)
        self.lag_s = max(self.lag_s, now - float(due[0]))
        self.last_arrival = float(due[-1])
        second = int(now - self.began)
        self._noticed[second] = self._noticed.get(second, 0) + len(due)
        for of, count in zip(*np.unique((due - self.began).astype(int), return_counts=True), strict=True):
            if of >= self._open:
                self._due[int(of)] = self._due.get(int(of), 0) + int(count)
        self._close(int(min(now, float(due[-1])) - self.began) - OPEN_S)

    def _close(self, border: int) -> None:
        """Judge the seconds before the border, whose records have all come, and forget them."""
        if border > self._open:
            self._worst_second, self._open = self._worst_until(border), border
            self._due = {second: count for second, count in self._due.items() if second >= border}
            self._noticed = {second: count for second, count in self._noticed.items() if second >= border}

    def _worst_until(self, border: float) -> float:
        """Return the largest relative error of the arrivals within a second that ended by the border."""
        whole = [second for second in self._due if 0 <= second <= border - 1]
        errors = [abs(self._noticed.get(second, 0) / self._due[second] - 1) for second in whole]
        return max([self._worst_second, *errors])

    def score(self, now: float, due: Times, sent: float) -> None:
        latency = now - due
        self.scored += len(due)
        self.in_time += int((latency <= self.deadline_s).sum())
        self._latency.add(latency)
        self._sending.add(np.full(len(due), now - sent))

    def report(self, now: float, *, gave_up: bool) -> Report:
        seconds = now - self.began
        active = max(self.last_arrival - self.began, 1e-9)
        return Report(
            seconds=seconds,
            arrived=self.arrived,
            scored=self.scored,
            dropped=self.dropped,
            failed=self.failed,
            latency=self._latency.percentiles(),
            after_sending=self._sending.percentiles(),
            goodput=self.in_time / seconds if seconds else 0.0,
            arrival_rate=(self.arrived - 1) / active if self.arrived > 1 else 0.0,
            worst_second=self._worst_until(active),
            lag_s=self.lag_s,
            drain_s=max(0.0, now - self.last_arrival),
            most_waiting=self.most_waiting,
            deaths=self.deaths,
            gave_up=gave_up,
            errors=list(self.errors),
        )


def is_sustained(report: Report, limit_s: float) -> bool:
    """Return whether a rate was borne: nothing lost, p99 within the limit, and no backlog of half of it at the end.

    Without the last condition a rate a few percent too high would pass, as its queue takes a while to grow.
    """
    lost = report.dropped or report.failed or report.gave_up
    return not lost and report.latency["p99"] <= limit_s and report.drain_s <= limit_s / 2


def highest_rate(
    is_borne: Callable[[float], bool], low: float, high: float, *, within: float = 0.02
) -> tuple[float, list[tuple[float, bool]]]:
    """Find the highest rate that is borne, by bisection; returns it and all trials in order.

    `low` is tried first and must be borne, or InputError is raised; `high` is returned if even that is borne. The
    result is at most the fraction `within` below a rate that was not borne.
    """
    trials: list[tuple[float, bool]] = []

    def tried(rate: float) -> bool:
        trials.append((rate, is_borne(rate)))
        return trials[-1][1]

    if not tried(low):
        raise InputError(f"not even {low:,.0f} a second are borne", where="stream", fix="begin with a lower rate")
    if tried(high):
        return high, trials
    while high > low * (1 + within):
        middle = (low + high) / 2
        if tried(middle):
            low = middle
        else:
            high = middle
    return low, trials
