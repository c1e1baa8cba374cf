"""Watch `notify.ready_by` in a thread of `raymill up`: tell the webhook once that the night's run is not ready, and
once that it is ready, late.

FOLDER/deadline.json keeps what was looked at and told, so that an `up` that starts after a deadline makes up for it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flows.run import notify
from flows.servers.readiness import Readiness, look
from flows.servers.services import basic
from tasks.core.deadline import Deadline
from tasks.core.errors import TransientError
from tasks.core.whole_files import write_whole
from tasks.settings import Settings

EVERY_S = 20.0
PATIENCE = timedelta(minutes=5)  # for a server that does not answer, before that itself is told
GIVE_UP = timedelta(hours=1)  # for a webhook that takes no message
NOT_READY, READY_LATE = "not-ready", "ready-late"


class Watch:
    """One deadline and what was told of it. `find` looks at the runs, `tell` posts a message and returns a problem."""

    def __init__(
        self,
        deadline: Deadline,
        folder: Path,
        find: Callable[[datetime], Readiness],
        tell: Callable[[str, dict[str, Any]], str],
        say: Callable[[str], None],
    ) -> None:
        self.deadline, self.find, self.tell, self.say = deadline, find, tell, say
        self.path = folder / "deadline.json"
        self._problem = ""

    def tick(self, now: datetime) -> None:
        """Look whether a deadline has passed that was not looked at, and whether a late run has ended."""
        due, state = self.deadline.before(now), self._state()
        if not state:  # the first time: what was before does not count
            self._save(due, None)
        elif datetime.fromisoformat(state["looked"]) < due:
            self._look(due, now)
        elif state["open"]:
            self._look_again(datetime.fromisoformat(state["open"]))

    def _look(self, due: datetime, now: datetime) -> None:
        try:
            found = self.find(due)
        except TransientError as error:
            if now - due < PATIENCE:
                return
            found = Readiness(None, due, error.what, "unknown")
        if found.done is None:
            if self._told(NOT_READY, due, found) or now - due > GIVE_UP:
                self._save(due, due)
        # Without an `up` at the deadline, a late run may be done before anybody looks.
        elif found.done <= due or self._told(READY_LATE, due, found) or now - due > GIVE_UP:
            self._save(due, None)

    def _look_again(self, due: datetime) -> None:
        try:
            found = self.find(due)
        except TransientError:
            return
        if found.done is not None and self._told(READY_LATE, due, found):
            self._save(due, None)

    def _told(self, event: str, due: datetime, found: Readiness) -> bool:
        message = self.message(event, due, found)
        problem = self.tell(event, message)
        if problem and problem != self._problem:
            self.say(f"no message: {problem}; trying again")
        if not problem:
            self.say(message["text"].splitlines()[0])
        self._problem = problem
        return not problem

    def message(self, event: str, due: datetime, found: Readiness) -> dict[str, Any]:
        """Return the message, without the address of a page."""
        if event == READY_LATE and found.done:
            minutes = max((found.done - due).total_seconds() / 60, 0)
            text = f"ready, late: {self.deadline.clock(found.done)}, {minutes:,.0f} minutes after {self.deadline}"
        else:
            text = f"not ready by {self.deadline}: {found.what}"
        run = found.run or {}
        return {
            "text": f"etl-train is {text}",
            "deadline": due.isoformat(),
            "ready": found.done.isoformat() if found.done else None,
            "state": "completed" if found.done else found.state,
            "stage": found.stage,
            "what": found.what or None,
            "flow_run": run.get("name"),
            "flow_run_id": run.get("id"),
        }

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) and state.get("ready_by") == str(self.deadline) else {}

    def _save(self, looked: datetime, open_since: datetime | None) -> None:
        state = {
            "ready_by": str(self.deadline),
            "looked": looked.isoformat(),
            "open": open_since.isoformat() if open_since else None,
        }
        write_whole(self.path, json.dumps(state))


@contextmanager
def watching(settings: Settings, api: str, folder: Path, say: Callable[[str, str], None]) -> Iterator[None]:
    """Watch the deadline of the settings, if there is one, while the block runs. api: the address of Prefect's API."""
    if settings.notify.ready_by is None:
        yield
        return
    deadline = Deadline.parse(settings.notify.ready_by)

    def tell(event: str, message: dict[str, Any]) -> str:
        page = f"{api.removesuffix('/api')}/runs/flow-run/{message['flow_run_id']}" if message["flow_run_id"] else None
        text = "\n".join([message["text"], *([page] if page else [])])
        return notify.send(settings, event, {**message, "text": text, "prefect": page})

    find = partial(look, api, basic(settings.services), settings, deadline)
    watch = Watch(deadline, folder, find, tell, partial(say, "up"))
    say("up", f"the night's run is to be ready by {deadline}")
    if not settings.notify.webhook:
        say("up", "notify.webhook is not set: a late run is told of here alone")
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(EVERY_S):
            try:
                watch.tick(datetime.now(UTC))
            except Exception as error:  # the servers must go on
                say("up", f"the deadline was not looked at: {type(error).__name__}: {error}")

    threading.Thread(target=run, name="deadline", daemon=True).start()
    try:
        yield
    finally:
        stop.set()
