"""`raymill score --follow`: score the files of a folder that grows as they appear, until Ctrl-C."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from flows.cli import launch
from flows.cli.options import escaped
from flows.cli.score_flow import flow_of, told
from flows.cli.source_lines import print_source
from flows.run.following import LOCK, Batch, Following, check_out, is_finished
from flows.run.scoring import check_folder, fetch, find_files, left_out
from tasks.core.errors import (
    InputError,
    RaymillError,
    RegistryError,
    RowsLost,
    RunError,
    TooManyRejects,
    TransientError,
    UserError,
    ValidationFailed,
)
from tasks.core.locks import locked
from tasks.settings import Settings
from tasks.sources.profiles import load_profile

TO_WAIT_FOR = (RegistryError, TransientError)
# No ChunkFailed: the scorer sets bad rows aside, so a chunk fails by the model or the machine.
OF_FILES = (InputError, TooManyRejects, ValidationFailed, RowsLost)


@dataclass
class Totals:
    """What was done since the start."""

    batches: int = 0
    files: int = 0
    rows: int = 0
    rejected: int = 0
    failed: int = 0  # files that cannot be scored


def follow(settings: Settings, out: Path, model: str, console: Console) -> dict[str, Any]:
    """Score batches of new files until Ctrl-C, or until none came for follow.idle_seconds; returns Totals.

    settings: those of `for_scoring`. Raises an error at once for a wrong folder, dataset or model, and later for a
    fault that is neither a file's nor one that passes; started again, it goes on where it was.
    """
    # A batch is no night: too few rows to be watched, and too many of them for the page over nights.
    settings = settings.model_copy(update={"watch": settings.watch.model_copy(update={"enabled": False})})
    folder = one_folder(settings)
    check_out(out, settings)
    load_profile(settings.data.dataset)
    fetch(settings, model)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK, wait=False) as alone:
        if not alone:
            raise RunError(f"another process follows into {out}", fix="end it first, or give a folder of its own")
        follower = Follower(settings, Following(folder, out, settings.follow.files), model, console)
        console.print(f"following {folder} into {out}; Ctrl-C ends it", highlight=False, soft_wrap=True)
        with ending(console) as ended:
            follower.work(ended)
    done = follower.totals
    failed = f"; {done.failed:,} file(s) cannot be scored: see {out / 'taken.jsonl'}" if done.failed else ""
    console.print(
        f"{done.files:,} file(s) in {done.batches:,} batch(es): {done.rows:,} predictions, {done.rejected:,} rejects"
        f"{failed}", highlight=False, soft_wrap=True,
    )  # fmt: skip
    return asdict(done)


def one_folder(settings: Settings) -> Path:
    """Return the input. Raises InputError unless it is one folder of this machine."""
    given = settings.data.input
    given = given if isinstance(given, str) else given[0] if len(given) == 1 else ""
    if not given or re.match("[a-z][a-z0-9+.-]+:/", given) or not Path(given).expanduser().is_dir():
        raise InputError(
            "--follow takes one folder of this machine",
            where=f"--input {given or settings.data.input}",
            fix="make the folder first; files may appear in it and below it",
        )
    return Path(given).expanduser()


@contextmanager
def ending(console: Console) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets. A second Ctrl-C interrupts what is at work."""
    ended = threading.Event()

    def end(*_: object) -> None:
        if ended.is_set():
            raise KeyboardInterrupt
        ended.set()
        console.print("ending after the batch at work; Ctrl-C again interrupts it", highlight=False)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield ended
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def of_no_file() -> Iterator[None]:
    """Raise what a user has to mend as RunError where it cannot be the files', which would be noted as bad for it."""
    try:
        yield
    except UserError as error:
        raise RunError(error.what, where=error.where, fix=error.fix) from error


class Follower:
    """Scores what `following` gives, each batch by a flow run; what the runs share is started with the first."""

    def __init__(self, settings: Settings, following: Following, model: str, console: Console) -> None:
        self.settings, self.following, self.model, self.console = settings, following, model, console
        self.totals = Totals()
        self._prepared = False
        self._unreadable: set[Path] = set()

    def work(self, ended: threading.Event) -> None:
        from flows.run.warm_up import keeping_validators

        config, last = self.settings.follow, time.monotonic()
        with keeping_validators():
            while not ended.is_set():
                batch = self.following.next()
                self._tell_unreadable()
                if batch is not None:
                    wait_s = 0.0 if self._settled(batch) else config.retry_seconds
                    last = time.monotonic()
                elif config.idle_seconds is not None and time.monotonic() - last >= config.idle_seconds:
                    return
                else:
                    wait_s = config.poll_seconds
                ended.wait(wait_s)

    def _settled(self, batch: Batch) -> bool:
        """Score a batch; returns False if that has to wait. A file that is at fault is noted with the problem."""
        try:
            rows, rejected = self._scored(batch)
        except TO_WAIT_FOR as error:
            self._tell("waiting", f"{error.what}; tried again in {self.settings.follow.retry_seconds:g} s")
            return False
        except OF_FILES as error:
            if not is_finished(batch.folder):
                self._blame(batch, error)
                return True
            rows, rejected = 0, 0
        self.following.done(batch)
        self.totals.batches += 1
        self.totals.files += len(batch.files)
        self.totals.rows += rows
        self.totals.rejected += rejected
        return True

    def _blame(self, batch: Batch, error: RaymillError) -> None:
        if len(batch.files) > 1:
            self._tell("one by one", f"{len(batch.files):,} files that fail together: {error.what}")
            self.following.split(batch)
            return
        self._tell("cannot be scored", f"{batch.paths[0]}: {error.what}")
        self.following.done(batch, error.what)
        self.totals.failed += 1

    def _scored(self, batch: Batch) -> tuple[int, int]:
        """Run the flow on a batch; returns its rows with predictions and without."""
        began = time.perf_counter()
        data = self.settings.data.model_copy(update={"input": batch.paths})
        settings = self.settings.model_copy(update={"data": data})
        with of_no_file():
            check_folder(batch.folder, settings)
            model, forgotten = fetch(settings, self.model), left_out(settings)
        source = find_files(settings, forgotten)
        print_source(self.console, source, settings.data.dataset)
        if not self._prepared:
            launch.prepare(settings, source, "read-new", self.console, apart=True)
            self._prepared = True
        record = launch.started(settings, flow_of(source, batch.folder, model.version))
        return told(self.console, record, model, batch.folder, time.perf_counter() - began)

    def _tell_unreadable(self) -> None:
        """Tell each file once that this user may not read; they are looked at again."""
        for path in sorted(self.following.unreadable - self._unreadable):
            self._tell("cannot be read", f"{path}: permission denied; it is scored once it may be read")
        self._unreadable |= self.following.unreadable

    def _tell(self, label: str, what: str) -> None:
        self.console.print(f"[yellow]{label}:[/] {escaped(what)}", highlight=False, soft_wrap=True)
