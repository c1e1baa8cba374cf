"""When records arrive: an open loop, in which nobody waits for the answers.

A load generator that sends the next request when the last one is answered (a closed loop) slows down with the service
that it measures: during a stall of ten seconds it sends one request instead of thousands, and a percentile over what
was sent hides the stall. This is coordinated omission (Tene 2013; Schroeder, Wierman and Harchol-Balter 2006, "Open
versus closed"). Here arrival times are fixed in advance, whatever the service does, and latencies count from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import InputError

Kind = Literal["even", "poisson"]
Times = np.ndarray[Any, np.dtype[np.float64]]


class Source(Protocol):
    """Records, numbered from 0 in the order in which they arrive. Times are the crew's, in seconds."""

    def arrived(self, now: float) -> int:
        """Return how many have arrived by now, in all."""

    def next_arrival(self, now: float) -> float | None:
        """Return when the next one is due or to be looked for, or None if no more will come."""

    def take(self, first: int, end: int) -> pa.Table: ...

    def times(self, first: int, end: int) -> Times:
        """Return when each was due."""

    def drop(self, first: int, end: int) -> Times:
        """Return when each was due, of records that nobody will take."""

    def done(self, end: int) -> None:
        """Hear that all before `end` are done with, so that none of them is given again."""


class Replay:
    """Rows of parquet that arrive at `rate` a second for `seconds`, from the time `start`; the last is followed by the
    first again.

    kind: `even`, or `poisson` with exponential gaps, as from many independent users (seeded).
    """

    def __init__(
        self,
        rows: pa.Table,
        rate: float,
        seconds: float,
        start: float,
        *,
        kind: Kind = "even",
        seed: int = 7,
    ) -> None:
        if rows.num_rows == 0:
            raise InputError("no rows to replay", where="stream")
        self._rows = rows.combine_chunks()
        self.rate, self.seconds, self.start = rate, seconds, start
        self._due = start + arrival_times(rate, seconds, kind, seed)

    def arrived(self, now: float) -> int:
        return int(np.searchsorted(self._due, now, side="right"))

    def next_arrival(self, now: float) -> float | None:
        place = self.arrived(now)
        return float(self._due[place]) if place < len(self._due) else None

    def take(self, first: int, end: int) -> pa.Table:
        pieces, count = [], self._rows.num_rows
        while first < end:
            at = first % count
            pieces.append(self._rows.slice(at, min(end - first, count - at)))
            first += pieces[-1].num_rows
        return pa.concat_tables(pieces)

    def times(self, first: int, end: int) -> Times:
        return self._due[first:end]

    drop = times

    def done(self, end: int) -> None:
        pass


def arrival_times(rate: float, seconds: float, kind: Kind = "even", seed: int = 7) -> Times:
    """Return the times of arrival in [0, seconds), ascending."""
    if not (rate > 0 and seconds > 0):
        raise InputError(f"a rate of {rate:g} a second for {seconds:g} s", where="stream", fix="both above 0")
    if kind == "even":
        return np.arange(int(np.ceil(rate * seconds - 1e-9))) / rate
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.2) + 50))
    while times[-1] < seconds:
        times = np.concatenate([times, times[-1] + np.cumsum(rng.exponential(1 / rate, len(times)))])
    return np.asarray(times[times < seconds])


def rows_of(files: Sequence[Path], columns: Sequence[str] | None = None, rows: int | None = None) -> pa.Table:
    """Read rows to replay, the first `rows` of the files or all."""
    tables, count = [], 0
    for file in files:
        tables.append(pq.read_table(file, columns=None if columns is None else list(columns)))
        count += tables[-1].num_rows
        if rows is not None and count >= rows:
            break
    return pa.concat_tables(tables).slice(0, rows)
