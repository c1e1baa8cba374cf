"""A load generator for HTTP: a process of its own, an open loop, latencies from the intended arrival.

    python -m benchmarks.load --url http://127.0.0.1:8000/predict --rate 20 --seconds 20 --bodies FILE

Requests are sent at times fixed in advance (`tasks.parallel.stream_arrivals`, Poisson), each by the first connection
that is free; a service that stalls makes later requests late, and their latencies count that. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from tasks.parallel.stream_arrivals import arrival_times

GIVE_UP_S = 30.0
START_S = 0.5


async def generate(url: str, bodies: list[bytes], rate: float, seconds: float, connections: int) -> dict[str, Any]:
    """Send requests at `rate` a second; returns the answers by status, and latencies in ms."""
    due = arrival_times(rate, seconds, "poisson")
    latencies, statuses, versions = np.full(len(due), np.nan), Counter[str](), Counter[str]()
    late = 0.0
    limits = aiohttp.TCPConnector(limit=connections)
    timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=limits, timeout=timeout, headers=headers) as session:
        began = time.perf_counter() + START_S

        async def send(i: int) -> None:
            try:
                async with session.post(url, data=bodies[i % len(bodies)]) as answer:
                    body = await answer.json()
                    statuses[str(answer.status)] += 1
                    if answer.status == 200:
                        latencies[i] = time.perf_counter() - began - due[i]
                        versions[(body[0] if isinstance(body, list) else body)["model_version"]] += 1
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                statuses[type(error).__name__] += 1

        sent = []
        for i, at in enumerate(due):
            if (wait := began + at - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            late = max(late, time.perf_counter() - began - at)
            sent.append(asyncio.create_task(send(i)))
        await asyncio.gather(*sent)
        took = time.perf_counter() - began
    answered = latencies[~np.isnan(latencies)] * 1000
    found = np.percentile(answered, (50, 95, 99), method="higher") if len(answered) else [np.nan] * 3
    return {
        "rate": rate,
        "requests": len(due),
        "statuses": dict(statuses),
        "failed": len(due) - len(answered),
        "versions": dict(versions),
        "p50_ms": round(float(found[0]), 2),
        "p95_ms": round(float(found[1]), 2),
        "p99_ms": round(float(found[2]), 2),
        "max_ms": round(float(max(answered, default=np.nan)), 2),
        "sent_late_ms": round(late * 1000, 2),
        "seconds": round(took, 2),
    }


async def flood(url: str, bodies: list[bytes], requests: int, connections: int) -> dict[str, Any]:
    """Send so many requests as fast as answers come: the throughput, and the predictions in the order of the bodies."""
    found: list[list[float]] = [[] for _ in range(requests)]
    statuses = Counter[str]()
    waiting = iter(range(requests))
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:

        async def client() -> None:
            for i in waiting:
                async with session.post(url, data=bodies[i % len(bodies)]) as answer:
                    body = await answer.json()
                    statuses[str(answer.status)] += 1
                    if answer.status == 200:
                        found[i] = [row["prediction"] for row in (body if isinstance(body, list) else [body])]

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(connections)))
        took = time.perf_counter() - began
    rows = [prediction for request in found for prediction in request]
    return {
        "statuses": dict(statuses),
        "seconds": took,
        "reviews_per_s": round(len(rows) / took, 1),
        "predictions": rows,
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: as fast as answers come")
    arguments.add_argument("--seconds", type=float, default=10.0)
    arguments.add_argument("--requests", type=int, default=100, help="how many, where --rate is 0")
    arguments.add_argument("--bodies", type=Path, required=True, help="JSON lines, each the body of a request")
    arguments.add_argument("--connections", type=int, default=64)
    given = arguments.parse_args()
    bodies = given.bodies.read_bytes().splitlines()
    if given.rate:
        work = generate(given.url, bodies, given.rate, given.seconds, given.connections)
    else:
        work = flood(given.url, bodies, given.requests, given.connections)
    print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
