"""A package as an MLflow model of raw reviews: its files, the code that loads them, its signature and an example.

The code is copied into the model, so that a process needs no Raymill to load it. In a process that has imported
`tasks` already the code is that of the process; `ReviewModel.check` then tells whether it computes the same.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from tasks.core.errors import SnapshotCorrupt
from tasks.core.snapshot_files import linked
from tasks.core.snapshots import Snapshot
from tasks.core.source_code import source_modules
from tasks.engines.model_versions import FOLDER, PythonModel
from tasks.stages.package import layout
from tasks.stages.package.layout import About
from tasks.stages.package.raw_reviews import REQUIRED
from tasks.stages.reference.layout import FOLDER as REFERENCE

MODULE = "tasks.stages.package.review_model"
SCRIPT = Path(__file__).with_name("scoring_script.py")
LIBRARIES = (
    "mlflow", "numpy", "pandas", "polars", "pyarrow", "pydantic", "pyyaml", "scipy", "tokenizers", "xgboost",
)  # fmt: skip
DEEP = ("safetensors", "torch", "transformers")  # of a model with the group deep
OPTIONAL = ("title", "verified", "category")
ROOT = Path(__file__).parents[3]


def gather(package: Snapshot, proof: Snapshot, folder: Path, reference: Snapshot | None = None) -> PythonModel:
    """Put together in `folder` what MLflow saves.

    proof: the snapshot of the stage `prove`: example and intervals. reference: that of the stage `reference`, by which
    later reviews are watched.
    """
    files = folder / FOLDER
    parts = [(package, files), *([(reference, files / REFERENCE)] if reference else [])]
    for snapshot, place in parts:
        for entry in snapshot.manifest.files:
            if not linked(snapshot.root / entry.name, place / entry.name, entry.size):
                raise SnapshotCorrupt(f"{entry.name} is gone or has changed", where=str(snapshot.root))
    example = proof.read("example")
    pq.write_table(example, files / layout.EXAMPLE)
    if (intervals := proof.facts["intervals"]) is not None:
        (files / layout.INTERVALS).write_text(json.dumps(intervals))
    about = About.parse((files / layout.ABOUT).read_text(), str(package.root))
    columns = ["user_id", "item_id", "title", "text", "timestamp", "verified", "category"]
    columns += ["rating"] * ("stars" in about.groups)
    shown = pl.DataFrame(pl.from_arrow(example)).select(columns).with_columns(pl.col("timestamp").dt.to_string("iso"))
    return PythonModel(
        folder=files,
        script=SCRIPT,
        code=copy_code(folder / "code"),
        libraries=LIBRARIES + DEEP * ("deep" in about.groups),
        signature=signature(about),
        example=shown.to_pandas(),
    )


def copy_code(to: Path) -> Path:
    """Copy the modules that load and score a package; returns the folder `tasks` with them."""
    files = {ROOT / "tasks" / "__init__.py", *(ROOT / "tasks" / "core").rglob("*.py")}
    for name in source_modules(MODULE):
        path = ROOT.joinpath(*name.split("."))
        files |= {path.with_suffix(".py"), *(folder / "__init__.py" for folder in (path, *path.parents))}
    for file in sorted(files):
        if file.is_file() and file.is_relative_to(ROOT / "tasks"):
            target = to / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return to / "tasks"


def signature(about: About) -> Any:
    """Return MLflow's signature: the columns of raw reviews, of any type: `raw_reviews` checks them better."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    from tasks.domain.targets import target_of

    needed = (*REQUIRED, "rating") if "stars" in about.groups else REQUIRED
    columns: list[Any] = [ColSpec(AnyType(), name) for name in needed]
    columns += [ColSpec(AnyType(), name, required=False) for name in OPTIONAL]
    classes = target_of(about.target).classes
    shape = (-1, classes) if classes > 1 else (-1,)
    return ModelSignature(Schema(columns), Schema([TensorSpec(np.dtype(np.float32), shape)]))
