"""Measure how long a user waits for the servers: `raymill up`, a run's first stage, `raymill down`.

`raymill up` runs with its own state, databases and free ports. Ours is `prefect deployment run` as deployed; the peer
`engine` is the same run with the default command of Prefect's worker. The time is from the start of the command to the
start of the run's first task. The case then waits for the run's end, and for the server to write all its events.

    raymill bench servers [--runs R]
"""

from __future__ import annotations

import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.harness import Case, SelfTimed, Setup, Timed
from tasks.core.errors import RunError
from tasks.core.sections import PROJECT

MAX_UP_S, MAX_FIRST_STAGE_S, MAX_DOWN_S = 30.0, 10.0, 10.0
WAIT_S, SETTLE_S = 120.0, 5.0
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PARTS = ("command", "worker", "process", "run")


@dataclass
class Place:
    """A running `raymill up`. `up_s`: the seconds it took to start."""

    environment: dict[str, str]
    api: str
    up_s: float = 0.0

    def raymill(self, *arguments: str) -> float:
        """Run a raymill command; returns its seconds."""
        return self._timed([sys.executable, "-m", "flows.cli.main", *arguments])[0]

    def prefect(self, *arguments: str) -> tuple[float, str]:
        """Run a Prefect command; returns its seconds and its output."""
        return self._timed([sys.executable, "-m", "prefect", *arguments])

    def _timed(self, command: list[str]) -> tuple[float, str]:
        started = time.perf_counter()
        done = subprocess.run(command, env=self.environment, cwd=PROJECT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RunError(f"exit status {done.returncode}: {done.stdout}{done.stderr}", where=" ".join(command[1:4]))
        return time.perf_counter() - started, done.stdout

    def ask(self, path: str, body: Any = None) -> Any:
        """Send a request to Prefect's server; returns its answer."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.api}{path}", data=data, headers={"Content-Type": "application/json"})
        with urlopen(request, timeout=WAIT_S) as answer:
            return json.load(answer)


def prepare(setup: Setup) -> Place:
    """Start `raymill up` in a new folder with that many reviews."""
    from tasks.sources.synth import synthesize

    synthesize(setup.size, 7, setup.scratch / "reviews")
    ports = [_free_port(), _free_port()]
    own = {
        "RAYMILL_SERVICES_DIR": f"{setup.scratch}/services",
        "PREFECT_HOME": f"{setup.scratch}/prefect",
        "RAYMILL__SERVICES__PREFECT_PORT": str(ports[0]),
        "RAYMILL__SERVICES__MLFLOW_PORT": str(ports[1]),
        "RAYMILL__SERVICES__MLFLOW_DATABASE": f"sqlite:///{setup.scratch}/mlflow.db",
        "RAYMILL__SERVICES__MLFLOW_ARTIFACTS": f"{setup.scratch}/artifacts",
        "RAYMILL__STORAGE__ROOT": f"{setup.scratch}/data",
        "RAYMILL__DATA__INPUT": f"{setup.scratch}/reviews",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAYMILL_", "PREFECT_", "MLFLOW_"))}
    place = Place({**inherited, **own}, f"http://127.0.0.1:{ports[0]}/api")
    place.up_s = _up(place, setup)
    place.environment["PREFECT_API_URL"] = place.api
    return place


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _up(place: Place, setup: Setup) -> float:
    output = setup.scratch / "up.txt"
    started = time.perf_counter()
    with output.open("w") as file:
        command = [sys.executable, "-m", "flows.cli.main", "up"]
        up = subprocess.Popen(command, env=place.environment, cwd=PROJECT, stdout=file, stderr=file)
    threading.Thread(target=up.wait, daemon=True).start()  # `raymill down` waits until it is not even a zombie
    setup.cleanup.callback(_end, up)
    while "up in" not in output.read_text():
        if up.poll() is not None or time.perf_counter() - started > WAIT_S:
            raise RunError(f"raymill up did not get ready:\n{output.read_text()[-3000:]}", where="bench servers")
        time.sleep(0.05)
    return time.perf_counter() - started


def _end(up: subprocess.Popen[bytes]) -> None:
    up.terminate()
    try:
        up.wait(30)
    except subprocess.TimeoutExpired:
        up.kill()


def ours(place: Place) -> SelfTimed:
    """Time one run, as deployed."""
    return _run(place)


def engine(place: Place) -> SelfTimed:
    """Time one run with the default command of Prefect's worker."""
    return _run(place, "--job-variable", "command=null")


def _run(place: Place, *more: str) -> SelfTimed:
    began = time.time()
    _, output = place.prefect("deployment", "run", "etl-train/default", "-p", "until=ingest", *more)
    match = re.search(r"UUID: ([0-9a-f-]{36})", output)
    if match is None:
        raise RunError(f"no run's id in Prefect's output:\n{output}", where="bench servers")
    id = match.group(1)
    while (run := place.ask(f"/flow_runs/{id}"))["state_type"] not in ENDS:
        if time.time() - began > WAIT_S:
            raise RunError(f"the run is {run['state_name']} after {WAIT_S:.0f} s", where="bench servers")
        time.sleep(0.2)
    time.sleep(SETTLE_S)
    if run["state_type"] != "COMPLETED":
        raise RunError(f"the run ended {run['state_name']}: {run['state']['message']}", where="bench servers")
    stages = place.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [id]}}})
    first_s = min(_seconds(stage["start_time"]) for stage in stages) - began
    states = {s["name"]: _seconds(s["timestamp"]) - began for s in place.ask(f"/flow_run_states/?flow_run_id={id}")}
    ends = [_seconds(run["created"]) - began, states["Submitting"], states["Running"], first_s]
    parts = {name: b - a for name, a, b in zip(PARTS, [0.0, *ends], ends, strict=False)}
    return SelfTimed(first_s, {"state": run["state_name"], "stages": len(stages), "parts_s": parts})


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def check(place: Place, ours: dict[str, Any], peers: Mapping[str, dict[str, Any]]) -> str:
    for name, theirs in peers.items():
        for fact in ("state", "stages"):
            assert ours[fact] == theirs[fact], f"{name} has {fact} {theirs[fact]}, ours {ours[fact]}"
    return f"each run is {ours['state']} with {ours['stages']} task"


def details(place: Place, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    """Report the medians of the parts: Prefect's command until the run is created, the worker's polling, the start of
    the process with its imports, and the run's own beginning. For ours also `up` and `down`, and all against their
    limits."""
    parts = {name: {"parts_s": _medians([run.output["parts_s"] for run in timed])} for name, timed in runs.items()}
    down_s = place.raymill("down")
    first_s = statistics.median(run.wall_s for run in runs["ours"])
    limits = {"up": (place.up_s, MAX_UP_S), "first stage": (first_s, MAX_FIRST_STAGE_S), "down": (down_s, MAX_DOWN_S)}
    return {
        **parts,
        "ours": {
            **parts["ours"],
            "up_s": round(place.up_s, 2),
            "down_s": round(down_s, 2),
            "verdict": {
                name: f"{'within' if s <= most else 'MORE THAN'} {most:.0f} s" for name, (s, most) in limits.items()
            },
        },
    }


def _medians(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(part[name] for part in parts), 2) for name in PARTS}


CASE = Case(
    name="servers",
    size_of="rows",
    default_size=1_000,
    prepare=prepare,
    ours=ours,
    peers={"engine": engine},
    check=check,
    details=details,
    check_is_warm_up=True,
)
