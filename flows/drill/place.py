"""A folder for all that runs write, and what it holds afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.snapshots import Snapshot
from tasks.core.storage.store import SnapshotStore, damaged_files


@dataclass(frozen=True)
class Place:
    """`root` holds MLflow's database and the storage root `data`. output_bytes: what the stage in question writes."""

    root: Path
    output_bytes: int = 0

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def store(self) -> SnapshotStore:
        return SnapshotStore(self.data / "snapshots")

    @property
    def settings(self) -> list[str]:
        """The settings that keep a run in this place."""
        return [f"storage.root={self.data}", f"tracking.uri=sqlite:///{self.root / 'mlflow.db'}"]

    @property
    def marker(self) -> Path:
        """The file that the process at the fault point creates."""
        return self.root / "struck"

    @property
    def summary(self) -> dict[str, Any]:
        """What the last run said of itself; {} if it did not end well."""
        with suppress(OSError, ValueError):
            return dict(json.loads((self.root / "summary.json").read_text()))
        return {}

    def clear(self) -> None:
        """Empty the place of what an earlier drill has left, mounted or not."""
        if self.data.is_mount():
            subprocess.run(["umount", "-l", str(self.data)], check=False, capture_output=True)
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)

    def run(self, arguments: Sequence[str], settings: Sequence[str]) -> list[str]:
        """Return the words of a run; the summary of the one before is removed. Of settings later ones win."""
        (self.root / "summary.json").unlink(missing_ok=True)
        words = [f"--set={setting}" for setting in settings]
        return ["run", "--json", str(self.root / "summary.json"), *arguments, *words]

    def struck(self) -> int | None:
        """Return the id of the process that reached the fault point; None before that."""
        try:
            return int(self.marker.read_text() or 0) or None
        except (OSError, ValueError):
            return None

    def copy(self, snapshots: SnapshotStore, *, without: Collection[str] = ()) -> None:
        """Take over another store's committed snapshots, but for those of some stages, as links where possible."""
        for snapshot in snapshots:
            if snapshot.stage not in without:
                target = self.store.root / snapshot.stage / snapshot.key
                shutil.copytree(snapshot.folder, target, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another device
        shutil.copyfile(source, target)


def orphans(store: SnapshotStore) -> list[Path]:
    """List the files that belong to no committed snapshot."""
    known: set[Path] = set()
    for snapshot in store:
        folder, manifest = Path(snapshot.folder), snapshot.manifest
        known |= {folder / "manifest.json", *(folder / manifest.attempt / e.name for e in manifest.files)}
    return [path for path in sorted(store.root.rglob("*")) if path.is_file() and path not in known]


def is_whole(snapshot: Snapshot) -> bool:
    """Tell whether every file is as committed."""
    return not damaged_files(Path(snapshot.folder), snapshot.manifest, full=True)
