"""Forget users: nothing of their reviews stays in what runs have written, and no later run reads them.

    1. the users, and the parts of the raw input that hold them, go on the list that ingest honours
    2. registered models that learned from them are removed, with the pages about these
    3. tables, logs and databases beside the snapshots lose what betrays them
    4. snapshots with their rows, and all that was made from these, are removed, the raw reviews' last

The order is for a call that is killed: the users' own rows, by which all else is found, go last. The raw input is the
user's and is not touched.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from flows.forget import found as search
from flows.forget import purge, receipt, sweep
from flows.forget.found import Found
from flows.forget.models import Mlflow, Touched
from flows.forget.places import REMOVING, Places
from flows.forget.receipt import Receipt
from flows.forget.rejected import user_fields
from flows.forget.sought import SHORTEST, Sought
from flows.rehearse.place import LOCK as REHEARSING
from flows.run.forgotten_users import keep, users_to_forget
from tasks.core import faults
from tasks.core.errors import RunError, SnapshotCorrupt
from tasks.core.locks import locked
from tasks.core.whole_files import write_whole
from tasks.engines import registry
from tasks.settings import Settings
from tasks.sources.forgotten import Forgotten

LOCK = "forget.lock"
Say = Callable[[str], None]


def forget(settings: Settings, users: Collection[str], say: Say, *, dry_run: bool = False) -> Receipt:
    """Forget these users (as in the column `user_id`); returns the receipt, which is written unless `dry_run`.

    May be killed and called again. Before anything is removed it raises RunError if a run, a rehearsal or another call
    is at work; SnapshotCorrupt if a snapshot that may hold them is damaged; RegistryError if MLflow does not answer.
    """
    places = Places(settings)
    with _alone(places):
        work = Forgetting(settings, places, frozenset(users), say)
        work.look()
        if not dry_run:
            work.list_users()
            work.remove_models()
            work.clean_files()
            work.remove_snapshots()
            work.finish()
        return work.receipt


@contextmanager
def _alone(places: Places) -> Iterator[None]:
    """Keep out other calls, registrations and rehearsals while the block runs. Raises RunError if one is at work."""
    places.root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        for lock, what in _locks(places):
            if not held.enter_context(locked(lock, wait=False)):
                raise RunError(f"{what} is at work", where=str(lock.parent), fix="wait for its end")
        yield


def _locks(places: Places) -> Iterator[tuple[Path, str]]:
    yield places.root / LOCK, "another raymill forget"
    yield places.root / registry.LOCK, "the registration of a model"
    for copy in places.copies:
        if (copy / REHEARSING).exists():
            yield copy / REHEARSING, "a rehearsal"


@dataclass
class Forgetting:
    """One call. `resumed`: an earlier one for the same users was killed; this one goes on under its receipt. copies:
    the rehearsals and drills that hold the users."""

    settings: Settings
    places: Places
    users: frozenset[str]
    say: Say
    found: dict[str, Found] = field(default_factory=dict)  # by store
    touched: list[Touched] = field(default_factory=list)
    copies: list[Path] = field(default_factory=list)

    @cached_property
    def sought(self) -> Sought:
        return Sought(self.users, user_fields=user_fields(self.settings.data.dataset))

    @cached_property
    def mlflow(self) -> Mlflow:
        return Mlflow.of(self.settings)

    @cached_property
    def listed(self) -> Forgotten:
        earlier = users_to_forget(self.settings.storage) or Forgotten()
        return earlier.with_users(self.users, {part for found in self.found.values() for part in found.parts})

    @cached_property
    def _opened(self) -> tuple[Receipt, bool]:
        return receipt.opened(self.places.root, [self.listed.hash_of(user) for user in self.users])

    @property
    def receipt(self) -> Receipt:
        return self._opened[0]

    @property
    def resumed(self) -> bool:
        return self._opened[1]

    @property
    def keys(self) -> set[str]:
        """The keys of all snapshots to remove."""
        return {key for found in self.found.values() for key in found.touched}

    @property
    def digests(self) -> set[str]:
        return {found.manifests[key].digest for found in self.found.values() for key in found.touched}

    def look(self) -> None:
        """Find everything; fill in the receipt."""
        for name, store in self.places.stores.items():
            store.check()
            search.check_idle(store)
            self.found[name] = search.find(store, self.sought)
        self.copies = [copy for copy in self.places.copies if self._is_theirs(copy)]
        self.touched = self.mlflow.touched(self.keys)
        reviews = {self.listed.hash_of(u): max(f.reviews(u) for f in self.found.values()) for u in self.users}
        for line in self.receipt.users:
            line["reviews"] = max(line["reviews"], reviews[line["hash"]])
        for name, found in self.found.items():
            for source in sorted(found.sources):
                self.receipt.add(self.receipt.input, {"file": source, "read_by": name})
            for key in found.touched:
                self._plan(name, found, key)
        for version in self.touched:
            self.receipt.add(self.receipt.models, version.line)
        self._list_predictions()
        self._list_unreached()

    def _is_theirs(self, copy: Path) -> bool:
        """Tell whether a rehearsal or a drill holds the users, or is half removed."""
        if copy.name.endswith(REMOVING):
            return True
        stores = self.places.stores_in(copy)
        for store in stores:
            search.check_idle(store)
        try:
            return any(search.find(store, self.sought).files for store in stores)
        except SnapshotCorrupt as error:
            fix = f"remove the folder {copy}, and start raymill forget again"
            raise RunError(error.what, where=error.where, fix=fix) from None

    def _plan(self, name: str, found: Found, key: str) -> None:
        manifest = found.manifests[key]
        kept, parts = len(purge.kept_parts(found, manifest)), len(manifest.parts)
        why = "holds their rows" if key in found.files else "made from such"
        line = {"store": name, "stage": manifest.stage, "key": key, "digest": manifest.digest, "why": why}
        line["parts_kept"] = f"{kept} of {parts}" if parts else ""
        if not any(line["key"] == earlier["key"] for earlier in self.receipt.snapshots):
            self.receipt.snapshots.append({**line, "after": ""})

    def _list_predictions(self) -> None:
        """List the predictions of models that learned from the users, and those for the users' reviews."""
        versions = {(touched.name, touched.version) for touched in self.touched}
        for name, found in self.found.items():
            for key, manifest in found.manifests.items():
                by = (str(manifest.facts.get("model")), str(manifest.facts.get("version")))
                if manifest.stage == "score" and (by in versions or key in found.touched):
                    what = "removed" if key in found.touched else "kept: of other users, by a model that is removed"
                    line = {"store": name, "digest": manifest.digest, "model": by[0], "version": by[1], "what": what}
                    self.receipt.add(self.receipt.predictions, line)
        for about in self.places.exported:
            stored = json.loads(about.read_text())
            if (str(stored["model"]), str(stored["version"])) in versions or stored["snapshot"] in self.digests:
                line = {"folder": str(about.parent), "model": stored["model"], "version": stored["version"]}
                self.receipt.add(self.receipt.predictions, {**line, "what": "lost the users' rows; others stay"})

    def _list_unreached(self) -> None:
        for line in self.places.unreached(self.mlflow):
            self.receipt.add(self.receipt.not_reached, line)
        known = {key for found in self.found.values() for key in found.manifests}
        touched = {f"{version.name} version {version.version}" for version in self.touched}
        for stranger in self.mlflow.strangers(known):
            if stranger not in touched:
                line = {"what": stranger, "why": "not all that it learned from is known in this storage"}
                self.receipt.add(self.receipt.not_reached, line)
        if n := self.sought.common_names:
            why = f"{n} names are words or numbers, or shorter than {SHORTEST} characters: found in any text by chance"
            self.receipt.add(self.receipt.not_reached, {"what": "logs, pages and databases", "why": why})

    def list_users(self) -> None:
        """Write the list that ingest honours, then the receipt: from here on a killed call is gone on with."""
        keep(self.listed, self.settings.storage)  # first: a receipt's hashes need its salt
        self.receipt.save(self.places.root)
        faults.point("forget", "listed")

    def remove_models(self) -> None:
        for version in self.touched:
            self.mlflow.remove(version)
            roles = f", {' and '.join(version.roles)}," if version.roles else ""
            self.say(f"removed {version.name} version {version.version}{roles} with its files")
            faults.point("forget", "model")
        for run, what in self.mlflow.left_in_runs(self.keys, self.digests):
            self.receipt.add(self.receipt.files, {"file": f"MLflow run {run}: {what}", "what": "removed"})
        self.receipt.save(self.places.root)
        faults.point("forget", "models")

    def clean_files(self) -> None:
        """Remove pages about what is removed, then whatever else betrays the users."""
        for page in self.places.pages(self.keys) if self.keys else []:
            shutil.rmtree(page)
            self.receipt.add(self.receipt.files, {"file": self.places.shown(page), "what": "removed"})
        for report in self.places.remove_shared_reports(self.keys):
            self.receipt.add(self.receipt.files, {"file": report, "what": "removed"})
        for copy in self.copies:
            self._remove_copy(copy)
        some = self.resumed or self.keys
        files = [*self.places.other_files, *self.mlflow.files] if some else []  # a typo must not change a thing
        for file, done, helped in sweep.swept(files, self.places.not_swept, self.sought):
            shown = self.places.shown(file)
            if helped:
                self.receipt.add(self.receipt.files, {"file": shown, "what": done})
                self.places.share(file)
            else:
                self.receipt.add(self.receipt.not_reached, {"what": shown, "why": done})
        for about in self.places.exported:
            _count_again(about)
        self.receipt.save(self.places.root)
        faults.point("forget", "files")

    def _remove_copy(self, place: Path) -> None:
        """Remove a rehearsal or a drill; it is renamed first: a killed call knows it by that."""
        if not place.name.endswith(REMOVING):
            place = place.rename(place.with_name(f"{place.name}{REMOVING}"))
        shutil.rmtree(place)
        self.receipt.add(self.receipt.files, {"file": self.places.shown(place), "what": "removed"})

    def remove_snapshots(self) -> None:
        removed = 0
        for name in sorted(self.found, key=lambda name: name == "main"):  # the raw reviews of training last
            found = self.found[name]
            for key in found.touched:
                manifest = found.manifests[key]
                rest = purge.keep_rest(found, manifest)
                (line,) = (line for line in self.receipt.snapshots if line["key"] == key)
                line["after"] = rest.digest if rest else ""
                self.receipt.save(self.places.root)
                purge.remove(found.store, manifest)
                faults.point("forget", "removed", removed)
                removed += 1
            if dead := purge.clear_leftovers(found.store):
                line = {"file": f"{name}: {dead} unfinished snapshots", "what": "removed"}
                self.receipt.add(self.receipt.files, line)

    def finish(self) -> None:
        """Look again; raises RunError if a run that had begun before has written new rows of these users."""
        for name, store in self.places.stores.items():
            if search.find(store, self.sought).files:
                raise RunError(
                    f"a run that had begun before wrote new rows of them to {name}",
                    fix="wait for its end, and start raymill forget again",
                )
        removed = {line["key"] for line in self.receipt.snapshots}
        late = [
            m for s in self.places.stores.values() for m in s.manifests().values() if m.facts.get(purge.REST_OF) is None
        ]
        if any(i.key in removed for m in late for i in m.inputs) or Mlflow.of(self.settings).touched(removed):
            raise RunError(
                "a run that had begun before made new snapshots or a model of what was removed",
                fix="wait for its end, and start raymill forget again",
            )
        self.receipt.finished = True
        self.receipt.ended = datetime.now(UTC).isoformat(timespec="seconds")
        self.receipt.save(self.places.root)


def _count_again(about: Path) -> None:
    """Set right what a folder of predictions says of its rows."""
    import pyarrow.parquet as pq

    stored = json.loads(about.read_text())
    rows = sum(pq.read_metadata(file).num_rows for file in about.parent.glob("part-*.parquet"))
    if stored.get("finished") and rows != stored["rows"]:
        gone = stored["rows"] - rows
        stored = {**stored, "rows": rows, "forgotten": stored.get("forgotten", 0) + gone}
        write_whole(about, json.dumps(stored, indent=1), synced=True)
