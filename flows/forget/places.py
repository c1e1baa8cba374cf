"""Where runs write: stores of snapshots, pages, predictions, logs and databases; and what is elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.forget.models import Mlflow
from flows.run.record import RunRecord
from flows.run.scoring import ABOUT, PREDICTIONS, for_scoring, predictions_folder
from flows.run.scoring import FOLDER as SCORING
from flows.servers.up_state import state_folder
from tasks.core.sections import PROJECT
from tasks.core.storage.mirror import MirroredStore
from tasks.core.storage.opening import open_store
from tasks.core.storage.store import SnapshotStore
from tasks.settings import Settings

REHEARSAL, DRILL = "rehearsal", "drill"  # below storage.root: where these commands work if nobody says where
REHEARSALS = "rehearsals.json"  # the folders that it worked in
WRITTEN = ("runs", "reports", PREDICTIONS)  # below storage.root
REMOVING = ".removing"  # the ending of a folder that is being removed


@dataclass
class Places:
    """All that runs with these settings have written."""

    settings: Settings

    @property
    def root(self) -> Path:
        return self.settings.storage.path

    @cached_property
    def stores(self) -> dict[str, SnapshotStore]:
        """The stores by name: that of runs that train, and that of scoring."""
        scoring = for_scoring(self.settings, None, None).storage
        stores = {"main": open_store(self.settings.storage)}
        return stores | ({"score": open_store(scoring)} if scoring.path.exists() else {})

    def stores_in(self, copy: Path) -> list[SnapshotStore]:
        return [SnapshotStore(path) for path in sorted(copy.rglob("snapshots")) if path.is_dir()]

    @property
    def copies(self) -> list[Path]:
        """The folders of rehearsals and drills, and what is left of one whose removal was killed."""
        known = [self.root / REHEARSAL, self.root / DRILL]
        if (file := self.root / REHEARSALS).exists():
            known += [Path(path) for path in json.loads(file.read_text())]
        both = [path for one in known for path in (one, one.with_name(f"{one.name}{REMOVING}"))]
        return [path for path in dict.fromkeys(both) if path.is_dir()]

    @property
    def exported(self) -> list[Path]:
        """What describes the predictions in the folder that they go to if nobody says where, of each batch too."""
        folder = predictions_folder(for_scoring(self.settings, None, None))
        return [about for about in (folder / ABOUT, *sorted(folder.glob(f"batch-*/{ABOUT}"))) if about.exists()]

    def pages(self, keys: Collection[str]) -> list[Path]:
        """List the folders of reports about runs with such snapshots, and the Data Docs: both show examples."""
        found = [self.root / "reports" / run for run in self._runs(keys)]
        scoring = self.root / SCORING
        return [page for page in (*found, self.root / "docs", scoring / "docs") if page.exists()]

    def _runs(self, keys: Collection[str]) -> list[str]:
        """List the runs that train with such snapshots; with a bucket those of all machines."""
        records = [RunRecord.from_json(stored) for stored, _ in self.stores["main"].records()]
        return [record.run_id for record in records if any(row.key in keys for row in record.stages)]

    def remove_shared_reports(self, keys: Collection[str]) -> list[str]:
        """Remove the bucket's copies of reports about runs with such snapshots; return their names there."""
        store = self.stores["main"]
        if not keys or not isinstance(store, MirroredStore):
            return []
        runs = {f"reports/{run}/" for run in self._runs(keys)}
        there = [o.name for o in store.bucket.objects("reports/") if o.name.startswith(tuple(runs))]
        store.bucket.delete(there)
        return [f"{store.bucket}/{name}" for name in there]

    def share(self, file: Path) -> None:
        """Send a record of a run that was cleaned to the bucket, if there is one."""
        for store in self.stores.values():
            if file.parent == store.root.parent / "runs":
                store.keep(file)

    @property
    def other_files(self) -> list[Path]:
        """What runs write beside the snapshots, and nothing else: a person may keep files below storage.root, too."""
        scoring = self.root / SCORING
        ours = [self.root / name for name in WRITTEN] + [scoring / name for name in ("runs", "reports", "shadow")]
        ours += [Path(os.environ.get("PREFECT_HOME") or PROJECT / "data" / "prefect") / "prefect.db"]
        return [path for path in (*ours, *state_folder().glob("*.log")) if path.exists()]

    @property
    def not_swept(self) -> list[Path]:
        """The raw input, wherever it is, and what is looked through otherwise."""
        given = [self.settings.data.input, self.settings.data.items or []]
        paths = [path for one in given for path in ([one] if isinstance(one, str) else one)]
        raw = [Path(path).absolute() for path in paths if "://" not in path]
        return [*raw, *self.copies, *(store.root for store in self.stores.values())]

    def shown(self, path: Path) -> str:
        """Return a path below storage.root without it."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)

    def unreached(self, mlflow: Mlflow) -> list[dict[str, Any]]:
        """List what may hold the users and cannot be reached from here, each with the reason."""
        lines = [
            ("the raw input", "it is yours; the files of the parts that held them are listed under input"),
            ("predictions and drills in folders given by --out, posted messages, backups", "they are not known here"),
        ]
        if any(isinstance(store, MirroredStore) for store in self.stores.values()):
            lines.append(("earlier versions of objects in the bucket", "a bucket with versioning keeps them"))
            lines.append(("working copies of the bucket on other machines", "call raymill forget there, too"))
        if self.settings.services.prefect_database:
            lines.append(("Prefect's database", "it is no SQLite file: search its logs and artifacts yourself"))
        if mlflow.client is not None and not mlflow.files:
            lines.append(("texts in MLflow's database", "it is not on this machine; models and reports were removed"))
        return [{"what": what, "why": why} for what, why in lines]
