"""The state between two boosting rounds, and the file that keeps it, so that a killed training resumes from there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from tasks.core.whole_files import write_whole

Curves = dict[str, list[float]]  # slice -> its loss after each round


@dataclass
class Checkpoint:
    """The state between two rounds: the model and the losses so far."""

    model: bytes
    curves: Curves

    @property
    def rounds(self) -> int:
        return max(map(len, self.curves.values()), default=0)


def write_checkpoint(folder: Path, identity: str, checkpoint: Checkpoint) -> None:
    """Write a line of JSON, then the model, atomically."""
    about = {"identity": identity, "sha256": sha256(checkpoint.model).hexdigest(), "curves": checkpoint.curves}
    write_whole(folder / "checkpoint", json.dumps(about).encode() + b"\n" + checkpoint.model)


def read_checkpoint(folder: Path, identity: str) -> Checkpoint | None:
    """Return the checkpoint of this job; None if there is none, or it is incomplete or of another job."""
    try:
        first, _, model = (folder / "checkpoint").read_bytes().partition(b"\n")
        about = json.loads(first)
    except (FileNotFoundError, ValueError):
        return None
    whole = (about["identity"], about["sha256"]) == (identity, sha256(model).hexdigest())
    return Checkpoint(model, about["curves"]) if whole else None
