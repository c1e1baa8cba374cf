"""A version that predicts what the champion predicts, unseen: differences are logged and counted.

It has a thread and a short queue of its own. What does not fit into the queue is dropped and counted; its errors are
counted and logged. So it delays no answer but by the CPU that it takes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Protocol

from flows.serve.measures import Measures
from flows.serve.reviews import Asked, Prediction
from tasks.core import locks

WAITING = 8  # batches
Seen = tuple[Sequence[Asked], Sequence[Sequence[Prediction]]]


class Model(Protocol):
    """A version that can be in the shadow."""

    name: str
    version: str

    def predict(self, asked: Sequence[Asked]) -> list[list[Prediction]]: ...


class Shadow:
    """model: of the version in the shadow. It works from `start` to `stop`, in a thread."""

    def __init__(self, model: Model, measures: Measures, log: DifferenceLog) -> None:
        self.model, self.measures, self.log = model, measures, log
        self.last_problem = ""
        self._queue: Queue[Seen] = Queue(WAITING)
        self._stopped = threading.Event()

    def start(self) -> Shadow:
        threading.Thread(target=self._work, name="shadow", daemon=True).start()
        return self

    def stop(self) -> None:
        self._stopped.set()

    def see(self, asked: Sequence[Asked], found: Sequence[Sequence[Prediction]]) -> None:
        """Take a batch and the champion's predictions for it, or drop it where earlier ones still wait."""
        try:
            self._queue.put_nowait((asked, found))
        except Full:
            self.measures.shadow.labels("dropped").inc(sum(len(one.reviews) for one in asked))

    def _work(self) -> None:
        while not self._stopped.is_set():
            try:
                seen = self._queue.get(timeout=0.5)
            except Empty:
                continue
            self.compare(*seen)

    def compare(self, asked: Sequence[Asked], found: Sequence[Sequence[Prediction]]) -> None:
        """Predict a batch, count and log the differences. Raises nothing: nobody may suffer from a shadow."""
        rows = sum(len(one.reviews) for one in asked)
        try:
            mine = self.model.predict([Asked(one.reviews) for one in asked])
            pairs = [pair for a, b in zip(found, mine, strict=True) for pair in zip(a, b, strict=True)]
            lines = [self._compared(*pair) for pair in pairs]
            self.log.add(lines)
        except Exception as error:
            self.last_problem = str(error).partition("\n")[0]
            self.measures.shadow.labels("failed").inc(rows)

    def _compared(self, champion: Prediction, mine: Prediction) -> dict[str, Any]:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "review_id": champion.review_id,
            "champion": champion.model_version,
            "shadow": mine.model_version,
            "champion_prediction": champion.prediction,
            "shadow_prediction": mine.prediction,
        }
        if champion.prediction is None or mine.prediction is None:
            self.measures.shadow.labels("failed").inc()
            return {**line, "problem": mine.problem or champion.problem}
        difference = mine.prediction - champion.prediction
        self.measures.shadow.labels("scored").inc()
        self.measures.shadow_gap.observe(abs(difference))
        self.measures.shadow_signed.observe(difference)
        return {**line, "difference": difference}


class DifferenceLog:
    """JSON lines in a file of at most `limit` bytes, and those before them in a second one. Any number of processes."""

    def __init__(self, file: Path, limit: int) -> None:
        self.file, self.limit = file, limit

    def add(self, lines: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locks.locked(self.file.with_name(f"{self.file.name}.lock")):
            if self.file.exists() and self.file.stat().st_size + len(text) > self.limit:
                os.replace(self.file, self.file.with_name(f"{self.file.name}.1"))
            with self.file.open("a") as file:
                file.write(text)
