"""What is drilled: the settings of its runs, and the digest of all that decides their results."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from tasks.core.digests import digest_of, file_sha256
from tasks.core.sections import PROJECT
from tasks.settings import Settings
from tasks.sources import discover
from tasks.stages import declared_stages

# Below the user's settings: a run of a minute.
SMALL = (
    *("ray.object_store_mb=150", "ray.workers=1", "tracking.system_metrics=false", "retries.first_delay_s=1"),
    *("tune.trials=3", "tune.max_rounds=20", "tune.min_rounds=10", "train.rounds=10", "train.checkpoint_rounds=3"),
    *("features.text_score.dimensions=4096", "features.text_score.borders=[0.3,0.6]"),
)
# Above them. Concurrent trials end in an order of their own; one at a time, a search too gives equal digests.
FIXED = (
    *("tune.concurrent=1", "tune.storage=null", "storage.remote=null", "notify.webhook=null", "notify.events=[]"),
    "logging.json=false",
)
VERSIONS = ("raymill", "ray", "prefect", "mlflow", "great-expectations", "xgboost", "pyarrow")


def plan_digest(settings: Settings, arguments: Sequence[str]) -> str:
    """Return the digest of settings, inputs, all code and the versions. arguments: of `raymill run`, in pairs."""
    given = list(zip(arguments[::2], arguments[1::2], strict=True))
    inputs = [value for name, value in given if name == "--input"]
    dataset = dict(given).get("--dataset", settings.data.dataset)
    source = discover(inputs or settings.data.input, dataset, settings.ingest)
    items = settings.data.items and discover(settings.data.items, dataset, settings.ingest_items, "items")
    code = sorted(path for folder in ("flows", "tasks", "conf") for path in (PROJECT / folder).rglob("*.*"))
    about = {
        "settings": settings.model_dump(mode="json"),
        "inputs": [source.digest, items and items.digest],
        "stages": {name: stage.code for name, stage in declared_stages().items()},
        # Stages' keys leave out what saves, starts and validates them, which is what a drill is about.
        "code": {str(path.relative_to(PROJECT)): file_sha256(path) for path in code if "__pycache__" not in path.parts},
        "versions": {name: metadata.version(name) for name in VERSIONS},
    }
    return digest_of(about)


def is_optional(stage: str, settings: Settings) -> bool:
    """Tell whether a run may be without this stage: its own `--until` is then refused."""
    section = getattr(settings, stage.replace("-", "_"), None)
    return stage in ("ingest-items", "items") or hasattr(section, "enabled")
