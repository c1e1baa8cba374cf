"""Watch the files of `data.input` in a thread of `raymill up`: once new ones have settled, start a run, once.

FOLDER/input.json keeps which files are known, so that those that came while `up` was down count, too. The first look
only learns them. A file that is removed starts nothing.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flows.run.retraining import FILES, Cause, start
from tasks.core.digests import digest_of
from tasks.core.errors import RaymillError
from tasks.core.whole_files import write_whole
from tasks.settings import Settings
from tasks.sources.locations import find, is_remote

EVERY_S = 20.0
AGAIN = timedelta(minutes=1)  # after which it is looked at once more whether a run that was started is not cancelled
NAMED = 3  # files in a message
Files = dict[str, str]  # size and time of change, by name


class InputWatch:
    """The files of an input and what was made of them. `find` lists them, `start` starts a run and returns whether the
    cause is dealt with."""

    def __init__(
        self,
        name: str,
        settle: timedelta,
        folder: Path,
        find: Callable[[], Files],
        start: Callable[[Cause], bool],
    ) -> None:
        self.name, self.settle, self.find, self.start = name, settle, find, start
        self.path = folder / "input.json"

    def tick(self, now: datetime) -> None:
        """Look at the files; start a run for new or changed ones that have stayed as they are for long enough."""
        found, state = self.find(), self._state()
        if not state:  # the first time: what is there already is the schedule's
            self._save(found, None, now)
            return
        if not found:  # a folder that is away for a while is not an empty one
            return
        known: Files = state["known"]
        new = sorted(name for name in found if known.get(name) != found[name])
        if not new:
            if last := state.get("last"):  # its run may have been cancelled before it began
                if now - datetime.fromisoformat(state["since"]) >= AGAIN and self.start(Cause(**last)):
                    self._save(found, None, now)
            elif found != known or state["waiting"]:
                self._save(found, None, now)
        elif state["waiting"] != found:
            self._save(known, found, now)
        elif now - datetime.fromisoformat(state["since"]) >= self.settle:
            cause = self._cause(found, new, known)
            if self.start(cause):
                self._save(found, None, now, cause)

    def _cause(self, found: Files, new: list[str], known: Mapping[str, str]) -> Cause:
        changed = sum(name in known for name in new)
        said = [f"{count} {what}" for count, what in ((len(new) - changed, "new"), (changed, "changed")) if count]
        names = ", ".join(new[:NAMED]) + (", …" if len(new) > NAMED else "")
        return Cause(f"{FILES}-{digest_of([self.name, found])[:16]}", FILES, f"{' and '.join(said)} file(s): {names}")

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("input") == self.name else {}

    def _save(self, known: Files, waiting: Files | None, now: datetime, last: Cause | None = None) -> None:
        state: dict[str, Any] = {"input": self.name, "known": known, "waiting": waiting, "since": now.isoformat()}
        if last:
            state["last"] = asdict(last)
        write_whole(self.path, json.dumps(state))


def listed(inputs: list[str]) -> Files:
    """List the files that a run would read, with their sizes and times of change; none where there is no input yet."""
    found: Files = {}
    with suppress(RaymillError):
        for file in find(inputs):
            with suppress(OSError):
                if file.problem is None:
                    about = Path(file.path).stat()
                    found[file.name] = f"{about.st_size}-{about.st_mtime_ns}"
    return found


def once_each(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return `say` without what it would say again: why no run is started is the same at every look."""
    last = [""]

    def told(line: str) -> None:
        if line != last[0]:
            last[0] = line
            say(line)

    return told


@contextmanager
def watching_input(settings: Settings, api: str, folder: Path, say: Callable[[str, str], None]) -> Iterator[None]:
    """Watch the input while the block runs, if `retrain.when` names files. api: the address of Prefect's API."""
    if FILES not in settings.retrain.when:
        yield
        return
    inputs = [settings.data.input] if isinstance(settings.data.input, str) else list(settings.data.input)
    tell = once_each(partial(say, "up"))
    if any(map(is_remote, inputs)):
        tell("retrain.when: only files of this machine are watched, not those in a bucket")
    local = [path for path in inputs if not is_remote(path)]
    watch = InputWatch(
        ", ".join(str(Path(path).absolute()) for path in local),
        timedelta(seconds=settings.retrain.settle_s),
        folder,
        partial(listed, local),
        lambda cause: start(settings, settings.storage.path, cause, tell, api),
    )
    if local:
        tell(f"new files in {watch.name} start a run of etl-train")
    stop = threading.Event()

    def run() -> None:
        while local and not stop.wait(EVERY_S):
            try:
                watch.tick(datetime.now(UTC))
            except Exception as error:  # the servers must go on
                tell(f"the input was not looked at: {type(error).__name__}: {error}")

    threading.Thread(target=run, name="input", daemon=True).start()
    try:
        yield
    finally:
        stop.set()
