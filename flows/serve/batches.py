"""Batches of the requests that wait: `ray.serve.batch` without Ray, and without waiting for more to come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from flows.serve.reviews import Asked, Prediction

Score = Callable[[Sequence[Asked]], list[list[Prediction]]]


class Batches:
    """While a batch is scored, in one thread, requests gather for the next. limit: reviews of a batch of several."""

    def __init__(self, score: Score, limit: int) -> None:
        self.score, self.limit = score, limit
        self._waiting: deque[tuple[Asked, asyncio.Future[list[Prediction]]]] = deque()
        self._thread = ThreadPoolExecutor(1, "score")
        self._worker: asyncio.Task[None] | None = None

    async def __call__(self, asked: Asked) -> list[Prediction]:
        """Return the predictions of one request. Raises what scoring raises."""
        answer: asyncio.Future[list[Prediction]] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next():
            try:
                found = await loop.run_in_executor(self._thread, self.score, [asked for asked, _ in batch])
            except Exception as error:
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), predictions in zip(batch, found, strict=True):
                if not answer.done():  # its client has hung up
                    answer.set_result(predictions)

    def _next(self) -> list[tuple[Asked, asyncio.Future[list[Prediction]]]]:
        batch: list[tuple[Asked, asyncio.Future[list[Prediction]]]] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0][0].reviews) <= self.limit):
            asked, answer = self._waiting.popleft()
            if not answer.done():
                batch.append((asked, answer))
                rows += len(asked.reviews)
        return batch
