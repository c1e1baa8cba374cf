"""The receipt of a forgetting: what was found, what became of it, and what could not be reached.

It names no user: each is the hash that the list of users to forget has (`tasks.sources.forgotten`). It is written
before anything is removed, and after each step, so that a call that was killed is gone on with under its receipt.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core.whole_files import write_whole
from tasks.engines.registry import who

FOLDER = "receipts"  # below storage.root
Lines = list[dict[str, Any]]


@dataclass
class Receipt:
    """users: {hash, reviews}. input: {file, reviews}, which are the user's to delete. snapshots: {store, stage, key,
    digest, why, after}, `after` the digest of what its untouched parts became. not_reached: {what, why}."""

    receipt: str = ""
    began: str = ""
    ended: str = ""
    finished: bool = False
    who: str = ""
    users: Lines = field(default_factory=list)
    input: Lines = field(default_factory=list)
    snapshots: Lines = field(default_factory=list)
    models: Lines = field(default_factory=list)
    predictions: Lines = field(default_factory=list)
    files: Lines = field(default_factory=list)
    not_reached: Lines = field(default_factory=list)
    run: dict[str, Any] | None = None

    @property
    def found(self) -> int:
        """The number of reviews that were found."""
        return sum(user["reviews"] for user in self.users)

    def save(self, root: Path) -> Path:
        path = root / FOLDER / f"{self.receipt}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), indent=1), synced=True)
        return path

    def add(self, lines: Lines, line: dict[str, Any]) -> None:
        """Add a line unless it is there already."""
        if line not in lines:
            lines.append(line)


def opened(root: Path, hashes: Collection[str]) -> tuple[Receipt, bool]:
    """Return the unfinished receipt of a call for the same users, or a new one; and whether it is an earlier one's."""
    for path in sorted((root / FOLDER).glob("forget-*.json"), reverse=True):
        stored = json.loads(path.read_text())
        receipt = Receipt(**{f.name: stored[f.name] for f in fields(Receipt) if f.name in stored})
        if not receipt.finished and {user["hash"] for user in receipt.users} == set(hashes):
            return receipt, True
    now = datetime.now(UTC)
    name = f"forget-{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    users = [{"hash": hashed, "reviews": 0} for hashed in sorted(hashes)]
    return Receipt(name, now.isoformat(timespec="seconds"), who=who(), users=users), False
