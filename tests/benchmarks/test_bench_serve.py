"""The load generator of the case `serve`: it counts what fails, and latencies begin when a request was due."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from benchmarks.load import flood, generate
from benchmarks.serve_requests import requests
from flows.serve.reviews import Review
from tasks.parallel.stream_arrivals import arrival_times

Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/predict", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/predict"
    finally:
        await runner.cleanup()


def test_a_stall_counts_from_when_requests_were_due() -> None:
    async def talk() -> dict[str, Any]:
        seen = 0
        going = asyncio.Event()

        async def handler(_: web.Request) -> web.Response:
            nonlocal seen
            seen += 1
            if seen == len(arrival_times(100, 0.5, "poisson")):
                going.set()  # nobody is answered before the last request has come
            await going.wait()
            return web.json_response({"model_version": "1"})

        async with served(handler) as url:
            return await generate(url, [b"{}"], 100, 0.5, connections=200)

    found = asyncio.run(talk())
    assert found["requests"] == len(arrival_times(100, 0.5, "poisson"))
    assert found["statuses"] == {"200": found["requests"]}
    due = arrival_times(100, 0.5, "poisson")
    assert found["max_ms"] >= 1000 * (due[-1] - due[0])  # the first waited for the last


def test_failures_are_counted() -> None:
    async def talk() -> dict[str, Any]:
        answers = iter(range(1000))

        async def handler(_: web.Request) -> web.Response:
            return web.json_response({"model_version": "1"}, status=500 if next(answers) % 2 else 200)

        async with served(handler) as url:
            return await generate(url, [b"{}"], 100, 0.5, connections=200)

    found = asyncio.run(talk())
    assert found["failed"] == found["statuses"]["500"] == found["requests"] // 2


def test_a_flood_returns_predictions_in_the_order_of_the_requests() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response([{"prediction": await request.json()}])

    async def talk() -> dict[str, Any]:
        async with served(handler) as url:
            return await flood(url, [json.dumps(i).encode() for i in range(7)], 10, connections=3)

    assert asyncio.run(talk())["predictions"] == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2]


def test_the_requests_are_ones_that_the_server_takes() -> None:
    for row in requests()[:200]:
        Review(**row)
