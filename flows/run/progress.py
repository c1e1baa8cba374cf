"""Show the progress of running stages in the log and in Prefect artifacts.

The terminal's view is in `flows.cli.console`. Speeds are measured over the later half of a stage's time so far, over
RECENT_S at least: parts come back in bursts, and a stage may slow down with its data. A finished stage's speeds are
those of its whole time.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from flows.run.record import StageRow
from flows.run.warned import lines
from tasks.core.progress import Progress, Receiver

RECENT_S = 30.0
FIRST_RATE_S = 1.0  # earlier speeds mean nothing
LOG_EVERY_S = 10.0
ARTIFACT_EVERY_S = 2.0  # a stage that ends within this time gets no artifact
FINISH_S = 3.0  # the longest wait at a run's end for updates on their way to Prefect


class View(Protocol):
    """A place that shows a run's progress."""

    def started(self, stage: str) -> None: ...

    def progressed(self, progress: Progress) -> None: ...

    def ended(self, row: StageRow) -> None: ...

    def failed(self, stage: str, error: BaseException) -> None: ...


class LogView:
    """Shows progress as lines in Prefect's log."""

    def __init__(self) -> None:
        self._lines = Lines(LOG_EVERY_S, first_s=LOG_EVERY_S, last=False)

    def started(self, stage: str) -> None:
        self._lines.forget(stage)

    def progressed(self, progress: Progress) -> None:
        if line := self._lines.next(progress):
            _prefect_log().info("%s", line)

    def ended(self, row: StageRow) -> None:
        done = "reused" if row.reused else "made"
        _prefect_log().info("%s: %s rows, %s, %.1f s", row.stage, f"{row.rows:,}", done, row.wall_s)
        for text in lines(row.warnings):
            _prefect_log().warning("%s", text)

    def failed(self, stage: str, error: BaseException) -> None:
        pass


def _prefect_log() -> Any:
    from prefect import get_run_logger

    return get_run_logger()


class Throttle:
    """Passes a progress report every `every_s` seconds, from `first_s` on; with `last` also the final one, at once."""

    def __init__(self, every_s: float, *, first_s: float = 0.0, last: bool = True) -> None:
        self.every_s, self.first_s, self.last = every_s, first_s, last
        self._next = first_s

    def passes(self, progress: Progress) -> bool:
        now = progress.seconds
        if now < self.first_s:
            return False
        at_once = self.last and progress.finished
        if now < self._next and not at_once:
            return False
        self.last = self.last and not at_once
        self._next = now + self.every_s
        return True


@dataclass(frozen=True)
class Speed:
    """Units and amounts per second, by name, and the seconds left; empty and None if unknown."""

    rates: Mapping[str, float] = field(default_factory=dict)
    left_s: float | None = None


class Pace:
    """Measures the speed of one stage from its progress reports."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque([(0.0, {})])

    def speed(self, progress: Progress) -> Speed:
        now, totals = progress.seconds, {progress.unit: progress.done, **progress.amounts}
        since = now - max(RECENT_S, now / 2)
        while len(self._seen) > 1 and self._seen[1][0] <= since:
            self._seen.popleft()
        then, before = (0.0, {}) if progress.finished else self._seen[0]
        if now - self._seen[-1][0] >= 1.0:
            self._seen.append((now, totals))
        if progress.resumed or now < FIRST_RATE_S or now <= then:
            return Speed()
        rates = {name: (total - before.get(name, 0)) / (now - then) for name, total in totals.items()}
        working = rates[progress.unit] > 0 and not progress.finished
        return Speed(rates, (progress.total - progress.done) / rates[progress.unit] if working else None)


class Lines:
    """The lines of progress of all stages, each at its time."""

    def __init__(self, every_s: float, *, first_s: float = 0.0, last: bool = True) -> None:
        self.every_s, self.first_s, self.last = every_s, first_s, last
        self._of: dict[str, tuple[Throttle, Pace]] = {}

    def forget(self, stage: str) -> None:
        """Start over with a stage that begins, or begins again."""
        self._of.pop(stage, None)

    def next(self, progress: Progress, width: int | None = None) -> str | None:
        """Return the stage's line, at most `width` characters; None before its time."""
        if progress.stage not in self._of:
            self._of[progress.stage] = Throttle(self.every_s, first_s=self.first_s, last=self.last), Pace()
        throttle, pace = self._of[progress.stage]
        return line(progress, pace.speed(progress), width) if throttle.passes(progress) else None


def line(progress: Progress, speed: Speed, width: int | None = None) -> str:
    """Format stage, percent done, units, amounts, measures, rates, time left; a narrow `width` drops some of them."""
    rates = [_rate(name, rate) for name, rate in speed.rates.items() if name != progress.unit or not progress.amounts]
    amounts = [f"{quantity(n)} {name}" for name, n in progress.amounts.items()]
    rates = [*_measures(progress), *rates]
    left = [f"{clock(speed.left_s)} left"] if speed.left_s is not None else []
    start = f"{progress.stage:<16} {int(100 * progress.fraction):>3}%"
    units = [_units(progress)]
    for shown in ([*units, *amounts, *rates, *left], [*units, *rates, *left], [*rates, *left], left):
        text = "  ".join([start, *shown])
        if width is None or len(text) <= width:
            return text
    return start[:width]


def description(progress: Progress, speed: Speed) -> str:
    """Format progress and speed as a sentence, with every rate."""
    amounts = [f"{quantity(n)} {name}" for name, n in progress.amounts.items()] + _measures(progress)
    parts = [", ".join([_units(progress), *amounts]) + f" in {clock(progress.seconds)}"]
    if speed.rates:
        parts.append(", ".join(_rate(name, rate) for name, rate in speed.rates.items()))
    if speed.left_s is not None:
        parts.append(f"{clock(speed.left_s)} left")
    return "; ".join(parts)


def _units(progress: Progress) -> str:
    done = f"{progress.done:,}"
    return f"{done} {progress.unit}" if progress.finished else f"{done} of {progress.total:,} {progress.unit}"


def _measures(progress: Progress) -> list[str]:
    return [f"{name} {value:.3g}" for name, value in progress.measures.items()]


def _rate(name: str, rate: float) -> str:
    return f"{quantity(float(f'{rate:.3g}'))} {name}/s"  # more digits would only flicker


def quantity(number: float) -> str:
    """Format a number: 0.25, 7.5, 12,400, 3.1 M, 1.2 B."""
    if number >= 999_950_000:
        return f"{number / 1e9:,.1f} B"
    if number >= 999_999.5:
        return f"{number / 1e6:,.1f} M"
    return f"{number:,.0f}" if number >= 9.5 or number == int(number) else f"{number:.2g}"


def clock(seconds: float) -> str:
    """Format seconds as 0:04, 12:30 or 1:02:03, rounded to the nearest."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def artifact_key(stage: str) -> str:
    """Return a key that Prefect accepts: lower-case letters, digits, dashes."""
    return re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")


def create(key: str, percent: float, text: str) -> UUID:
    """Create the progress artifact of the task run in whose context this is called."""
    from prefect.artifacts import create_progress_artifact

    artifact: Any = create_progress_artifact(percent, key=key, description=text)
    return UUID(str(artifact))


def update(artifact: UUID, percent: float, text: str) -> None:
    from prefect.artifacts import update_progress_artifact

    update_progress_artifact(artifact, percent, description=text)


class Artifacts:
    """A Prefect progress artifact for each stage that takes longer than ARTIFACT_EVERY_S.

    A separate thread talks to Prefect, whose client tries for a minute to reach a server that does not answer. A stage
    only stores its latest progress for the thread, replacing one that is not sent yet.
    """

    def __init__(
        self,
        create: Callable[[str, float, str], UUID] = create,
        update: Callable[[UUID, float, str], None] = update,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._create, self._update, self._now = create, update, now
        self._waiting: dict[str, tuple[Context, float, str]] = {}
        self._made: dict[str, UUID] = {}  # a retried stage keeps its artifact
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = self._failed = False

    @contextmanager
    def of(self, stage: str) -> Iterator[Receiver]:
        """Give the receiver of a stage's progress while the block runs. Enter it in the stage's task run."""
        throttle, pace = Throttle(ARTIFACT_EVERY_S, first_s=ARTIFACT_EVERY_S), Pace()
        context, began = copy_context(), self._now()
        unsent: list[Progress] = []

        def send(progress: Progress) -> None:
            unsent.clear()
            text = description(progress, pace.speed(progress))
            self._leave(artifact_key(stage), context, round(100 * progress.fraction, 1), text)

        def receive(progress: Progress) -> None:
            unsent[:] = [progress]
            if throttle.passes(progress):
                send(progress)

        try:
            yield receive
        finally:
            if unsent and self._now() - began >= ARTIFACT_EVERY_S:
                with suppress(Exception):  # no thread can be started, say: no reason to fail the stage
                    send(unsent[0])

    def finish(self) -> None:
        """Wait until all is sent: FINISH_S at most, and not at all if Prefect's server did not answer before."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or not (self._waiting or self._busy), FINISH_S)

    def _leave(self, key: str, context: Context, percent: float, text: str) -> None:
        with self._changed:
            self._waiting[key] = context, percent, text
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="progress-artifacts", daemon=True)
                self._thread.start()

    def _send_all(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._busy = True
                key = next(iter(self._waiting))
                context, percent, text = self._waiting.pop(key)
            try:
                context.run(self._send, key, percent, text)
            except Exception as error:
                self._complain(error)

    def _send(self, key: str, percent: float, text: str) -> None:
        if key in self._made:
            self._update(self._made[key], percent, text)
        else:
            self._made[key] = self._create(key, percent, text)

    def _complain(self, error: Exception) -> None:
        from prefect.logging import get_logger

        if not self._failed:
            get_logger("raymill").warning("progress does not reach Prefect: %s", error)
        self._failed = True
