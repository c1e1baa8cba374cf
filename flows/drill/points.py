"""The fault points of a drill, declared: where, what happens, in which surroundings.

A new stage gets its points by itself. A stage's point runs that stage alone, on the reference's snapshots of the stages
before it; a point with `afresh` makes some stages again, to the end of the run.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from flows.drill import postgres, scenes
from flows.drill.scenes import Surroundings
from tasks.core import faults
from tasks.settings import Settings
from tasks.stages import declared_stages

Need = Callable[[Settings], str]  # returns why a point cannot be tried; "" if it can


@dataclass(frozen=True)
class Point:
    """A fault.

    stage: the stage to make, the last one of the run; "" for the whole run. at: the fault point as RAYMILL_KILL_AT
    names it; "" where the surroundings are the fault. fault: RAYMILL_FAULT. afresh: stages to make again, beside
    `stage`. needs: what a deployment must have.
    """

    name: str
    says: str
    stage: str
    at: str = ""
    fault: str = "SIGKILL"
    scene: Surroundings = scenes.nothing
    afresh: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()


# Actors and tasks that have points of their own, by stage.
WORKERS = {
    "count-words": ("mapreduce:mapped:0", "mapreduce:taken:0", "mapreduce:reduced:0"),
    "tokenize": ("tokenize:encoded:0",),
    "language-model": ("mapreduce:mapped:0", "mapreduce:taken:0", "mapreduce:reduced:0"),
    "text-model": ("text-model:step:1",),
    "next-token": ("next-token:step:1",),
    "train": ("train:round:1", "train:round:7"),
    "refit": ("train:round:1",),
}
# Made again by the points that concern the flow.
END = ("tune", "refit", "evaluate", "package", "prove", "reference", "report")


def points() -> list[Point]:
    """Return all points, in the order in which they are tried: by stage, then what surrounds a run."""
    return [*_stages(), *_workers(), *_nodes(), *_flow(), *_disk(), *_servers(), *_stores()]


def _stages() -> Iterator[Point]:
    for stage in (name for name, stage in declared_stages().items() if stage.flow == "etl-train"):
        for at in faults.POINTS:
            yield Point(f"{stage}:{at}", "the run's process is killed", stage, f"{stage}:{at}")
        yield Point(f"{stage}:writing", "the process that writes the first file is killed", stage, "files:written")
    for at in ("saved", "recorded"):
        says = f"killed when the model's version is {at}"
        yield Point(f"register:{at}", says, "register", f"register:{at}")


def _workers() -> Iterator[Point]:
    for stage, found in WORKERS.items():
        for at in found:
            says = "a worker is killed; the run goes on with another"
            yield Point(f"worker:{stage}:{at}", says, stage, at, needs=(own_ray,))


def _nodes() -> Iterator[Point]:
    dies: tuple[tuple[str, str, str], ...] = (
        ("raylet", "clean", "files:written"),
        ("raylet", "tokenize", "tokenize:encoded:0"),
        ("raylet", "features", "files:written"),
        ("raylet", "train", "train:round:1"),
        ("raylet", "tune", "tune:before-run"),
        ("gcs_server", "features", "files:written"),
        ("ray::", "language-model", "language-model:before-run"),
        ("ray::", "describe", "files:written"),
    )
    for who, stage, at in dies:
        name = "workers" if who == "ray::" else who.removesuffix("_server")
        says = "all of Ray's workers are killed" if who == "ray::" else f"Ray's {who} is killed"
        yield Point(f"ray:{name}:{stage}", says, stage, at, "SIGSTOP", scenes.killing(who), needs=(own_ray,))


def _flow() -> Iterator[Point]:
    for name, says in (("SIGTERM", "the run is told to end"), ("SIGINT", "the run is interrupted by Ctrl-C")):
        for stage in ("ingest", "clean", "features", "tune", "evaluate"):
            yield Point(f"flow:{name}:{stage}", says, stage, f"{stage}:after-run", name)
    for name in ("SIGKILL", "SIGTERM", "SIGINT"):
        yield Point(
            f"flow:{name}:to-the-end", "the run gets the signal in the search", "", "tune:after-run", name, afresh=END
        )
    says = "Ctrl-C while a training and the search run side by side, and the training goes on for ever"
    yield Point(
        "flow:SIGINT:side-by-side",
        says,
        "tune",
        "train:round:1",
        "SIGSTOP",
        scenes.interrupted,
        afresh=("train",),
        needs=(own_ray,),
    )


def _disk() -> Iterator[Point]:
    for stage in ("ingest", "clean", "features", "split", "report"):
        yield Point(f"disk:ENOSPC:{stage}", "a file cannot be written: no space", stage, "files:written", "ENOSPC")
    for stage in ("clean", "train"):
        yield Point(f"disk:EROFS:{stage}", "a file cannot be written: read-only", stage, "files:written", "EROFS")
        yield Point(f"disk:EIO:{stage}", "a file cannot be written: disk error", stage, "files:written", "EIO")
        yield Point(f"handles:EMFILE:{stage}", "too many open files in a worker", stage, "files:written", "EMFILE")
    for stage in ("ingest", "clean", "features", "tune"):
        yield Point(
            f"disk:full:{stage}",
            "the file system is full",
            stage,
            scene=scenes.small_disk,
            needs=(without_settings(scenes.no_mount),),
        )
    for stage in ("clean", "evaluate"):
        yield Point(
            f"disk:read-only:{stage}",
            "the folder cannot be written to",
            stage,
            scene=scenes.read_only,
            needs=(without_settings(scenes.no_read_only),),
        )
        yield Point(f"handles:few:{stage}", "the process may open few files", stage, scene=scenes.few_handles)
        yield Point(
            f"clock:back:{stage}",
            "what a killed run left comes from the future",
            stage,
            f"{stage}:before-manifest",
            scene=scenes.clock_set_back,
        )


def _servers() -> Iterator[Point]:
    for number, word in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "silent")):
        at = "clean:after-run"
        yield Point(f"mlflow:{word}:clean", f"MLflow's server is {word}", "clean", at, "SIGSTOP", scenes.mlflow(number))
        at = "evaluate:after-manifest"
        says = f"MLflow's server is {word} before the model is registered"
        yield Point(f"mlflow:{word}:register", says, "register", at, "SIGSTOP", scenes.mlflow(number), ("evaluate",))
        at = "features:after-run"
        yield Point(
            f"prefect:{word}:features", f"Prefect's server is {word}", "features", at, "SIGSTOP", scenes.prefect(number)
        )


def _stores() -> Iterator[Point]:
    """Points of a bucket and of a database, with servers of the drill's own."""
    for at in ("sent:0", "before-remote-manifest", "after-remote-manifest"):
        says = "the run is killed on the way to the bucket"
        yield Point(f"bucket:{at}", says, "clean", f"clean:{at}", scene=scenes.stored_in_bucket, needs=(has_bucket,))
    for number, word in ((signal.SIGKILL, "killed"), (signal.SIGSTOP, "silent")):
        says, scene = f"the bucket's server is {word}", scenes.bucket(number)
        yield Point(f"bucket:{word}", says, "clean", "clean:after-run", "SIGSTOP", scene, needs=(has_bucket,))
    says, scene = "the database of the search's trials ends", scenes.postgres_dies
    yield Point("postgres:killed", says, "tune", "tune:before-run", "SIGSTOP", scene, needs=(has_postgres,))


def has_bucket(settings: Settings) -> str:
    if settings.storage.remote is None:
        return "the deployment has no bucket (storage.remote)"
    return "" if find_spec("moto") and find_spec("boto3") else "moto, a server to break, is not installed"


def has_postgres(settings: Settings) -> str:
    storage = settings.tune.storage.get_secret_value() if settings.tune.storage else ""
    if not storage.startswith("postgres"):
        return "the deployment has no PostgreSQL (tune.storage)"
    return "" if postgres.programs() else "this machine has no programs of PostgreSQL"


def own_ray(settings: Settings) -> str:
    """Workers of a cluster do not get this process's variables."""
    from tasks.engines import cluster_connect

    return "Ray is a cluster, whose processes the drill must not kill" if cluster_connect.wanted(settings.ray) else ""


def without_settings(reason: Callable[[], str]) -> Need:
    return lambda _settings: reason()
