"""Inspect raw files before any run: find the shipped dataset profile that fits them, or propose one.

    raymill data inspect PATH [--dataset NAME] [--rows 20000] [--write mine.yaml]

It reads every file's first bytes, and the first rows of the first files, as `ingest` would read them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.core.errors import InputError
from tasks.core.settings import CONF, load_section
from tasks.domain.schemas import REVIEWS
from tasks.sources import locations, spoilt_values
from tasks.sources.canonical import ANONYMOUS, Period
from tasks.sources.day_order import MISREAD
from tasks.sources.discovery import Quarantined, SourceFile
from tasks.sources.file_groups import ANY, Layout, layouts_of, read_columns, sample
from tasks.sources.finding import look
from tasks.sources.item_records import to_items
from tasks.sources.loading import Recipe
from tasks.sources.lost_values import lost_values
from tasks.sources.own_profile import adaptations
from tasks.sources.profiles import Profile, known_profiles, load_profile
from tasks.sources.proposals import Proposal, propose, with_both_orders
from tasks.sources.rating_guesses import RatingWatch
from tasks.sources.settings import IngestConfig
from tasks.sources.text_encoding import is_wide

TRIED_FILES = 3  # files of each layout to try every profile on; the chosen one is tried on all


@dataclass
class Judgement:
    """How a profile reads the sample. `nulls` are shares of the usable rows, by canonical column."""

    name: str
    profile: Profile
    files: int = 0
    rows: int = 0
    usable: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)  # values of optional columns, by canonical column
    nulls: dict[str, float] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of what the rows would lose or learn by mistake
    quarantined: list[Quarantined] = field(default_factory=list)
    damage: list[Quarantined] = field(default_factory=list)
    adaptations: list[str] = field(default_factory=list)  # how files are read otherwise than the profile says

    @property
    def rejected_share(self) -> float:
        return 1 - self.usable / self.rows if self.rows else 1.0

    @property
    def lost_values(self) -> int:
        return self.lost.total()

    @property
    def mapped(self) -> int:
        """Canonical columns that have values."""
        return sum(share < 1 for share in self.nulls.values())


@dataclass
class Inspection:
    """`items` are files with product metadata and the shipped profile that reads each; they are not tried as reviews.

    `chosen` is the profile named by the caller, the shipped one that fits best, or (`proposed`) one made for these
    columns, with its `yaml`. `why_none` is the reason where there is none."""

    layouts: list[Layout]
    unreadable: list[Quarantined]
    items: dict[str, str]
    review_paths: list[str]
    item_paths: list[str]
    chosen: Judgement | None = None
    yaml: str | None = None
    proposed: bool = False
    why_none: str = ""


def inspect(inputs: Sequence[str], dataset: str | None = None, rows: int = 20_000) -> Inspection:
    """Inspect these files, folders or globs. Raises InputError where nothing can be read, and ProfileError."""
    config = load_section("ingest", IngestConfig)
    given = load_profile(dataset) if dataset else None
    listed = locations.find(inputs)
    readable, unreadable = _look_at_all(listed, ANY, config)
    if not readable:
        unreadable.sort(key=lambda q: q.left_out)
        more = f" (and {len(unreadable) - 1} more files)" if len(unreadable) > 1 else ""
        fix = unreadable[0].fix or f"readable endings: {', '.join(locations.ENDINGS)}, each also packed"
        raise InputError(f"{unreadable[0].reason}{more}", where=unreadable[0].name, fix=fix)
    layouts = layouts_of(readable, config)
    for layout in layouts:
        read_columns(layout, config, rows)
    doubtful = {file.path for file in listed if file.doubtful}
    layouts = [layout for layout in layouts if _may_hold_reviews(layout, doubtful)] or layouts
    items = _items(layouts)
    metadata = {f.path for f in readable} - {f.path for f in readable if f.name not in items}
    reviews = [f for f in listed if f.path not in metadata]
    inspection = Inspection(layouts, unreadable, items, [f.path for f in reviews], sorted(metadata))
    if dataset and given:
        inspection.chosen = judge(dataset, given, reviews, config, rows)
        if not inspection.chosen.files:
            inspection.why_none = f"the dataset profile {dataset!r} reads none of these files"
    else:
        _choose(inspection, reviews, config, rows)
    return inspection


def _may_hold_reviews(layout: Layout, doubtful: set[str]) -> bool:
    """Tell whether a layout has columns: three at least where nothing else tells that its files hold reviews."""
    return len(layout.columns) >= (3 if all(file.path in doubtful for file in layout.files) else 1)


def _choose(inspection: Inspection, found: Sequence[locations.RawFile], config: IngestConfig, rows: int) -> None:
    """Choose the shipped profile that fits best, or propose one for the largest layout that allows it."""
    trial = _trial(found, inspection.layouts)
    tried = [judge(name, load_profile(name), trial, config, rows) for name in known_profiles()]
    fitting = [t for t in tried if t.usable and t.rejected_share <= config.max_reject_fraction]
    if fitting:
        best = min(fitting, key=lambda t: (-t.files, t.rejected_share, t.lost_values, -t.mapped))
        inspection.chosen = judge(best.name, best.profile, found, config, rows)
        inspection.yaml = (CONF / "datasets" / f"{best.name}.yaml").read_text(encoding="utf-8")
        return
    inspection.why_none = "only product metadata"
    for layout in sorted(inspection.layouts, key=lambda one: -sum(f.size for f in one.files)):
        if all(f.name in inspection.items for f in layout.files):
            continue
        if not layout.rows and layout.bad:
            [(reason, _)] = layout.bad.most_common(1)
            inspection.why_none = f"no row of {layout.first.name} can be read: {reason}"
            continue
        proposal = _proposal(layout)
        if isinstance(proposal, Proposal):
            inspection.chosen = judge("proposed", proposal.profile, found, config, rows)
            if any(MISREAD in q.reason for q in inspection.chosen.quarantined):
                proposal = with_both_orders(proposal)
                inspection.chosen = judge("proposed", proposal.profile, found, config, rows)
            inspection.yaml, inspection.proposed, inspection.why_none = proposal.text, True, ""
            return
        inspection.why_none = proposal


def judge(
    name: str, profile: Profile, files_listed: Sequence[locations.RawFile], config: IngestConfig, rows: int
) -> Judgement:
    """Read the first rows of these files with this profile, as `ingest` would, and count what is usable."""
    judgement = Judgement(name, profile)
    files, judgement.quarantined = _look_at_all(files_listed, profile, config)
    judgement.files = len(files)
    judgement.adaptations = adaptations(profile, [(f.name, f.own) for f in files if f.own])
    period = Period.of(config.earliest, config.latest)
    recipe = Recipe("reviews", profile, config, period)
    nulls: Counter[str] = Counter()
    watch = RatingWatch(profile)
    spoilt: Counter[tuple[str, str]] = Counter()
    for batch, file in sample(files, profile, config, rows, "reviews", judgement.damage):
        judgement.rows += len(batch.numbers) + len(batch.bad)
        try:
            own = recipe.of(file)
            kept, rejected = own.rows(batch, file.name)
        except pl.exceptions.PolarsError as error:
            judgement.reasons[f"cannot be mapped: {str(error).splitlines()[0][:100]}"] += len(batch.numbers)
            continue
        judgement.usable += kept.num_rows
        # Details of one record ("character 1,234") would make each reason unique.
        judgement.reasons.update(re.sub(r" \(.*", "", r) for r in rejected["reason"].to_pylist())
        judgement.reasons.update(re.sub(r" \(.*", "", b.reason) for b in batch.bad)
        table = pl.DataFrame(pl.from_arrow(kept))
        nulls.update({c: _empty(table[c]) for c in REVIEWS.names})
        judgement.lost += lost_values(batch.frame, batch.numbers, kept, rejected, own.profile)
        spoilt += spoilt_values.count_spoilt(table)
        watch.see(batch.frame, table, own.profile)
        judgement.examples += table.head(3 - len(judgement.examples)).to_dicts()
    judgement.warnings = [*watch.warnings(), *spoilt_values.warnings(spoilt, judgement.usable)]
    if judgement.usable:
        judgement.nulls = {c: nulls[c] / judgement.usable for c in REVIEWS.names}
    if "review_id" not in {*profile.columns, *profile.constants} and judgement.nulls:
        judgement.nulls["review_id"] = 1.0  # made from the others
    return judgement


def _empty(column: pl.Series) -> int:
    empty = column.is_null()
    if column.dtype == pl.String:
        empty = empty | (column == "") | column.str.starts_with(ANONYMOUS)
    return int(empty.sum())


def _look_at_all(
    files: Sequence[locations.RawFile], profile: Profile, config: IngestConfig
) -> tuple[list[SourceFile], list[Quarantined]]:
    looks = [look(file, profile, config) for file in files]
    return [f for readable, _ in looks for f in readable], [q for _, wrong in looks for q in wrong]


def _trial(found: Sequence[locations.RawFile], layouts: Sequence[Layout]) -> list[locations.RawFile]:
    """Return the first files of each layout, to try profiles on."""
    paths = {file.path for layout in layouts for file in layout.files[:TRIED_FILES]}
    return [file for file in found if file.path in paths]


def _items(layouts: Sequence[Layout]) -> dict[str, str]:
    """Find product metadata: the item columns of a shipped profile are filled, and no column holds stars."""
    items: dict[str, str] = {}
    profiles = [(name, profile.items) for name in known_profiles() if (profile := load_profile(name)).items]
    for layout in layouts:
        if not layout.records or isinstance(_proposal(layout, nested=False), Proposal):
            continue
        best, most = "", 2  # an id and a title are not enough: reviews have both
        for name, mapping in profiles:
            assert mapping is not None
            kept, rejected = to_items(layout.records, mapping)
            filled = sum(column.null_count < 0.95 * len(column) for column in kept.columns)
            if 2 * len(rejected) < len(layout.records) and filled > most:
                best, most = name, filled
        if best:
            items |= {file.name: best for file in layout.files}
    return items


def _proposal(layout: Layout, nested: bool = True) -> Proposal | str:
    delimited = layout.first.format == "delimited"
    name = layout.first.name if len(layout.files) == 1 else f"{layout.first.name} and {len(layout.files) - 1} more"
    return propose(
        [column for column in layout.columns if nested or not column.inside],
        description=f"Reviews as in {name}",
        header=layout.header,
        quoting=layout.first.quoting if delimited else None,
        ending=locations.ending(layout.first.name),
        encoding="utf-8" if is_wide(layout.encoding) else layout.encoding,  # a mark names it in each file
        other_encodings=layout.first.other_encodings,
        several_files=len(layout.files) > 1,
    )
