"""Ask for predictions by HTTP: `raymill serve` through Ray Serve, in one process, and the least that could serve.

In: the champion of the registry that the settings name (variables such as RAYMILL__TRACKING__URI count), and synthetic
reviews as JSON. Ours is `raymill serve`; the peer `process` is `raymill serve --set serve.through=process`, the peer
`uvicorn` FastAPI and uvicorn alone with the same model code. Timed are requests of 32 reviews over four connections;
the predictions of all sides are equal. Beside them, each from a load generator in a process of its own (an open loop,
latencies from the intended arrival):

    single      one review a request, 20 requests a second
    promotion   the same while another version becomes champion, in a copy of the registry (SQLite only)
    killed      the same while the replica is killed (of Ray Serve only)

    raymill bench serve [--size SECONDS] [--runs R] [--json FILE|-]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from benchmarks.harness import Case, SelfTimed, Setup, Timed
from benchmarks.serve_requests import write_bodies
from tasks.core.errors import RunError
from tasks.core.sections import PROJECT
from tasks.settings import load_settings

RATE, CONNECTIONS, REVIEWS, REQUESTS = 20.0, 4, 32, 100
START_S, EVENT_S, EVENT_LOAD_S = 120.0, 4.0, 30.0
TOLERANCE = 1e-6


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


@dataclass
class Job:
    seconds: float
    scratch: Path
    uri: str
    name: str
    versions: tuple[str, str]
    servers: dict[str, Server] = field(default_factory=dict)


def prepare(setup: Setup) -> Job:
    """Copy the registry, give it a second version of the champion, start the servers."""
    uri, name, first, second = copied_registry(setup.scratch)
    job = Job(setup.size, setup.scratch, uri, name, (first, second))
    write_bodies(setup.scratch / "one.jsonl", 1)
    write_bodies(setup.scratch / "many.jsonl", REVIEWS)
    raymill = ["-m", "flows.cli.main", "serve", "--set", f"tracking.uri={uri}", "--port"]
    started(job, setup, "process", lambda port: [*raymill, port, "--set", "serve.through=process"])
    package = next((setup.scratch / "data" / "score" / "models").glob(f"{name}-{first}-*"))
    started(job, setup, "uvicorn", lambda port: ["-m", "benchmarks.peers.serve", str(package), port])
    started(job, setup, "ours", lambda port: [*raymill, port])
    return job


def copied_registry(scratch: Path) -> tuple[str, str, str, str]:
    """Return the address of a copy, the model's name, the champion, and a second version of the same model there."""
    import mlflow

    from tasks.engines import registry, tracking

    settings = load_settings()
    uri, name = tracking.tracking_uri(settings.tracking), ""
    name = settings.registry.name_for(settings.features.target, settings.data.called)
    if not uri.startswith("sqlite:///"):
        raise RunError("the case copies the registry, which must be SQLite", where=uri)
    shutil.copyfile(uri.removeprefix("sqlite:///"), scratch / "mlflow.db")
    uri = f"sqlite:///{scratch / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)  # MLflow looks the model's files up there
    client = tracking.connect(uri)
    champion = registry.aliases(client, name).get(registry.CHAMPION)
    if champion is None:
        raise RunError(f"{name} has no champion", where="bench serve", fix="raymill run registers one")
    version = client.get_model_version(name, champion)
    another = client.create_model_version(
        name, version.source, run_id=version.run_id, tags=version.tags, model_id=version.model_id
    )
    return uri, name, champion, str(another.version)


def started(job: Job, setup: Setup, side: str, arguments: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one_thread = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment = {**os.environ, **one_thread, "RAYMILL__STORAGE__ROOT": str(setup.scratch / "data")}
    log = (setup.scratch / f"{side}.log").open("wb")
    command = [sys.executable, *arguments(str(port))]
    server = Server(subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=log), port)
    setup.cleanup.callback(server.stop)
    end = time.monotonic() + START_S
    while not answers(server):
        if server.process.poll() is not None or time.monotonic() > end:
            raise RunError(
                f"{side} does not start: {(setup.scratch / f'{side}.log').read_text()[-500:]}", where="bench"
            )
        time.sleep(0.1)
    job.servers[side] = server


def answers(server: Server) -> bool:
    try:
        with urlopen(f"{server.url}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def load(job: Job, side: str, bodies: str, *options: str) -> subprocess.Popen[str]:
    url = f"{job.servers[side].url}/predict"
    command = [sys.executable, "-m", "benchmarks.load", "--url", url, "--bodies", str(job.scratch / bodies), *options]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)


def read(process: subprocess.Popen[str]) -> dict[str, Any]:
    said = process.communicate(timeout=300)[0]
    if process.returncode:
        raise RunError("the load generator failed", where="bench serve")
    found: dict[str, Any] = json.loads(said)
    return found


def side(name: str) -> Any:
    def measure(job: Job) -> SelfTimed:
        found = read(load(job, name, "many.jsonl", "--requests", str(REQUESTS), "--connections", str(CONNECTIONS)))
        if found["statuses"] != {"200": REQUESTS}:
            raise RunError(f"{name} answered {found['statuses']}", where="bench serve")
        return SelfTimed(found["seconds"], found["predictions"])

    return measure


def check(job: Job, ours: list[float], peers: Mapping[str, list[float]]) -> str:
    for name, theirs in peers.items():
        worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        assert worst <= TOLERANCE, f"predictions of {name} differ by up to {worst}"
    return f"{len(ours):,} predictions of each side are equal to {TOLERANCE:g}"


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    report: dict[str, dict[str, Any]] = {}
    for name, timed in runs.items():
        rows = REVIEWS * REQUESTS
        steady = ["--rate", str(RATE), "--seconds", str(job.seconds)]
        report[name] = {
            "reviews_per_s": round(rows / statistics.median(run.wall_s for run in timed)),
            "single": read(load(job, name, "one.jsonl", *steady)),
            "rss_bytes": sum(p.memory_info().rss for p in processes(job.servers[name])),
        }
    for name in ("ours", "process"):
        if name in report:
            report[name]["promotion"] = during(job, name, lambda: promote(job))
            promote(job, back=True)
    report["ours"]["killed"] = during(job, "ours", lambda: kill_replicas(job))
    return report


def during(job: Job, name: str, event: Any) -> dict[str, Any]:
    """Measure the answers while something happens."""
    loading = load(job, name, "one.jsonl", "--rate", str(RATE), "--seconds", str(EVENT_LOAD_S))
    time.sleep(EVENT_S)
    event()
    return read(loading)


def promote(job: Job, *, back: bool = False) -> None:
    from tasks.engines import registry, tracking

    version = job.versions[0 if back else 1]
    tracking.connect(job.uri).set_registered_model_alias(job.name, registry.CHAMPION, version)


def kill_replicas(job: Job) -> None:
    for process in processes(job.servers["ours"]):
        if "ServeReplica" in " ".join(process.cmdline()):
            process.kill()


def processes(server: Server) -> list[psutil.Process]:
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


CASE = Case(
    name="serve",
    size_of="seconds",
    default_size=20,
    prepare=prepare,
    ours=side("ours"),
    peers={"process": side("process"), "uvicorn": side("uvicorn")},
    check=check,
    details=details,
    check_is_warm_up=True,
)
