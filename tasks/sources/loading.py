"""Load one part of the raw input as canonical tables, in blocks of bounded size, and count every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import RowsLost
from tasks.domain.schemas import ITEMS, REJECTS, REVIEWS, UNRATED
from tasks.sources import day_order, left_out_users, locations
from tasks.sources.canonical import Period, to_canonical, unparsed
from tasks.sources.discovery import SourceFile
from tasks.sources.file_checks import Kind
from tasks.sources.forgotten import Forgotten
from tasks.sources.item_records import to_items
from tasks.sources.json_records import BadRecord
from tasks.sources.lost_values import lost_values
from tasks.sources.partitions import PART_MAX_BYTES, Part, Unit
from tasks.sources.profiles import Profile
from tasks.sources.readers import Batch, Reading
from tasks.sources.settings import ReadConfig


@dataclass
class Account:
    """The account of one unit: its rows as its reader counts them, its rejects (`row` counts from the unit's first),
    and what ended it early."""

    unit: Unit
    rows: int = 0
    rejects: list[pa.Table] = field(default_factory=list)
    damage: str | None = None
    forgotten: int = 0  # rows of users to forget
    lost: Counter[str] = field(default_factory=Counter)  # values of optional columns, by canonical column


@dataclass(frozen=True)
class Recipe:
    """How records become canonical rows: of REVIEWS or UNRATED, or, for product metadata, of ITEMS."""

    kind: Kind
    profile: Profile
    config: ReadConfig
    period: Period | None = None  # of reviews
    folders: tuple[tuple[str, str], ...] = ()  # values of columns of the file's product metadata
    forgotten: Forgotten | None = None  # users whose reviews are left out

    @property
    def schema(self) -> pa.Schema:
        if self.kind == "items":
            return ITEMS
        return REVIEWS if self.profile.needs_rating else UNRATED

    def of(self, file: SourceFile) -> Recipe:
        """Return the recipe with the file's own profile and the values of its folders."""
        own = day_order.narrowed(file.own or self.profile, file.time_formats)
        return replace(self, profile=own, folders=file.folders)

    def rows(self, batch: Batch, source: str) -> tuple[pa.Table, pa.Table]:
        """Map a batch to (canonical rows, REJECTS). Every row goes to one of them."""
        if self.kind == "reviews":
            assert self.period is not None
            return to_canonical(batch.frame, batch.numbers, self.profile, source, self.period)
        assert self.profile.items is not None
        records = batch.frame.to_dicts() if batch.records is None else batch.records
        if self.folders:
            records = [dict(self.folders) | record for record in records]
        kept, wrong = to_items(records, self.profile.items)
        # repr: a Python literal may hold values that JSON lacks, and half a surrogate pair is not text.
        bad = [BadRecord(int(batch.numbers[i]), reason, ascii(records[i])[:2000]) for i, reason in wrong]
        return kept, unparsed(bad, source)


@dataclass
class Loaded:
    """A part being read: iterate over `blocks()` for its canonical tables, then look at `accounts`."""

    part: Part
    recipe: Recipe
    accounts: list[Account] = field(default_factory=list)

    def blocks(self) -> Iterator[pa.Table]:
        held: list[pa.Table] = []
        for unit in self.part:
            account = Account(unit)
            self.accounts.append(account)
            for kept in self._unit(unit, account):
                held.append(kept)
                if sum(t.nbytes for t in held) >= PART_MAX_BYTES:
                    yield pa.concat_tables(held)
                    held = []
        if sum(t.num_rows for t in held):
            yield pa.concat_tables(held)

    def _unit(self, unit: Unit, account: Account) -> Iterator[pa.Table]:
        recipe = self.recipe.of(unit.file)
        forgotten = recipe.forgotten if recipe.kind == "reviews" else None
        reading = Reading(unit, recipe.profile, recipe.config, recipe.kind)
        kept_rows = 0
        for whole in reading:
            batch, gone = left_out_users.without(whole, recipe.profile, forgotten) if forgotten else (whole, 0)
            kept, rejected = recipe.rows(batch, unit.file.name)
            account.rows += len(whole.numbers) + len(whole.bad)
            if recipe.kind == "reviews":
                account.lost += lost_values(batch.frame, batch.numbers, kept, rejected, recipe.profile)
            account.rejects += [t for t in (rejected, unparsed(batch.bad, unit.file.name)) if t.num_rows]
            if forgotten and recipe.profile.missing_user == "anonymous":
                named, kept = kept.num_rows, left_out_users.without_anonymous(kept, forgotten)
                gone += named - kept.num_rows
            account.forgotten += gone
            kept_rows += kept.num_rows
            if kept.num_rows:
                yield kept
        account.damage = reading.damage
        check_nothing_lost(account, kept_rows)


def sorted_rejects(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([REJECTS.empty_table(), *tables]).sort_by([("source", "ascending"), ("row", "ascending")])


def check_nothing_lost(account: Account, kept: int) -> None:
    """Raise RowsLost unless each row is usable, rejected or of a user to forget, and parquet yielded all its rows."""
    unit = account.unit
    counted = kept + sum(t.num_rows for t in account.rejects) + account.forgotten
    expected = account.rows
    if unit.file.format == "parquet" and not account.damage:
        with locations.open_raw(unit.file.path) as raw:
            footer = pq.read_metadata(raw)
        expected = sum(footer.row_group(group).num_rows for group in unit.row_groups)
    if not expected == account.rows == counted:
        raise RowsLost(
            f"{expected} rows, but {counted} usable or rejected",
            where=f"{unit.file.name}, from row {unit.first_row}",
            fix="this is a bug in ingest; please report it with the file",
        )
