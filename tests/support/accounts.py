"""Read raw files as ingest does and check the account of every row, for the tests of bad input."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks import sources
from tasks.settings import Settings, load_settings
from tasks.sources.file_checks import Kind
from tasks.stages.ingest import read_parts


@dataclass
class Outcome:
    """The result of reading: usable rows; (file, row in the file, reason) of the rejects; reasons of files not read, or
    not to their end; the number of units."""

    kept: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[tuple[str, int, str]] = field(default_factory=list)
    damage: dict[str, str] = field(default_factory=dict)
    units: int = 0

    @property
    def reasons(self) -> list[tuple[int, str]]:
        return [(row, reason) for _, row, reason in self.rejected]


@lru_cache
def settings_with(overrides: tuple[str, ...]) -> Settings:
    return load_settings(overrides=overrides)


def read_all(
    inputs: Path | str | Sequence[str], dataset: str = "amazon-us", *overrides: str, kind: Kind = "reviews"
) -> Outcome:
    """Read all files of the inputs, as ingest does. Raises what ingest raises."""
    settings = settings_with(overrides)
    config = settings.ingest if kind == "reviews" else settings.ingest_items
    given = inputs if isinstance(inputs, (str, list, tuple)) else str(inputs)
    source = sources.discover(given, dataset, config, kind)
    period = sources.Period.of(settings.ingest.earliest, settings.ingest.latest)
    recipe = sources.Recipe(kind, source.profile, config, period)
    return read(sources.plan(source), recipe, {q.name: q.reason for q in source.quarantined})


def read(parts: Sequence[sources.Part], recipe: sources.Recipe, damage: dict[str, str]) -> Outcome:
    """Read these parts; assert that every counted row is either usable or rejected, once."""
    found = Outcome(damage=damage)
    accounts: dict[int, list[sources.Account]] = {}
    for i, part in enumerate(parts):
        loaded = sources.Loaded(part, recipe)
        for block in loaded.blocks():
            assert block.schema.equals(recipe.schema)
            block.validate(full=True)
            found.kept += block.to_pylist()
        accounts[i] = loaded.accounts
    units = {
        i: [{"source": a.unit.file.name, "row": a.unit.start, "rows": a.rows} for a in each]
        for i, each in accounts.items()
    }
    for i, firsts in read_parts.first_rows(units).items():
        for account, first in zip(accounts[i], firsts, strict=True):
            found.units += 1
            for reject in pa.concat_tables(account.rejects).to_pylist() if account.rejects else []:
                found.rejected.append((reject["source"], reject["row"] + first, reject["reason"]))
            if account.damage:
                assert account.unit.file.name not in found.damage
                found.damage[account.unit.file.name] = account.damage
    found.rejected.sort()
    assert len({(source, row) for source, row, _ in found.rejected}) == len(found.rejected), "a row rejected twice"
    rows = Counter[str]()
    for unit in (u for each in units.values() for u in each):
        rows[unit["source"]] += unit["rows"]
    assert rows.total() == len(found.kept) + len(found.rejected)
    for source, row, _ in found.rejected:
        assert 0 <= row < rows[source], "no such row"
    return found


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return sink.getvalue().to_pybytes()


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


# bzip2 in its smallest blocks: a cut costs up to one.
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": lambda data: bz2.compress(data, 1),
    ".zst": zstd,
}
