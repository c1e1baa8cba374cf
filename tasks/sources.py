"""Raw reviews as found: which files, in which format, and how a dataset profile maps them to the canonical table.

`discover` looks at names, headers and types alone and raises InputError before any work is done. `plan` cuts the
files into parts of moderate size, by the data alone: the number of workers must not change a digest. `load`
reads one part in a worker.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.core.digests import digest_of, file_sha256
from tasks.core.errors import InputError, ProfileError, RowsLost
from tasks.core.schemas import REJECTS, REVIEWS
from tasks.core.settings import CONF

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv"}
MANDATORY = ("user_id", "item_id", "rating", "text", "timestamp")
PART_MIN_BYTES, PART_MAX_BYTES, PARTS_WANTED = 4 << 20, 64 << 20, 16


class _Profile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimestampRule(_Profile):
    formats: tuple[str, ...] = ()


class Quoting(_Profile):
    quote: str | None = '"'


class Profile(_Profile):
    """How a source's columns become canonical ones. Ten lines of YAML in conf/datasets."""

    description: str
    columns: dict[str, str]
    timestamp: TimestampRule = TimestampRule()
    flags: dict[str, list[str]] = Field(default_factory=dict)
    csv: Quoting = Quoting()
    tsv: Quoting = Quoting(quote=None)
    header: tuple[str, ...] = ()


def load_profile(name: str) -> Profile:
    """A profile by its name in conf/datasets or by path. Raises ProfileError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else CONF / "datasets" / f"{name}.yaml"
    if not path.exists():
        known = sorted(p.stem for p in (CONF / "datasets").glob("*.yaml"))
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}; or give a path to a YAML file"
        raise ProfileError(f"no dataset profile {name!r}", fix=hint)
    try:
        profile = Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else " ".join(str(error).split())
        raise ProfileError(f"malformed: {what}", where=str(path), fix="compare conf/datasets/amazon-us.yaml") from None
    unknown = sorted(set(profile.columns) - set(REVIEWS.names))
    missing = sorted(set(MANDATORY) - set(profile.columns))
    if unknown or missing:
        what = f"unknown canonical columns: {unknown}" if unknown else f"mandatory columns not mapped: {missing}"
        raise ProfileError(what, where=str(path), fix=f"canonical columns are {', '.join(REVIEWS.names)}")
    return profile


@dataclass(frozen=True)
class SourceFile:
    """One raw file. `name` is relative to the input; `header` says whether a text file has a header row."""

    path: str
    name: str
    format: str
    size: int
    sha256: str
    header: bool = True


@dataclass(frozen=True)
class Source:
    """The raw input of a run: files and the profile that reads them. Stands where a snapshot stands."""

    files: tuple[SourceFile, ...]
    profile: Profile
    stage: str = "source"
    key: str = ""

    @property
    def digest(self) -> str:
        files = [(f.name, f.size, f.sha256) for f in self.files]
        return digest_of({"files": files, "profile": self.profile.model_dump(mode="json")})


def discover(path: str, dataset: str) -> Source:
    """Find the files, check each one's format, header and types, and hash them. Raises InputError or ProfileError."""
    profile = load_profile(dataset)
    root = Path(path).expanduser()
    if not root.exists():
        raise InputError("no such file or folder", where=path, fix="check --input (relative paths start where you are)")
    if root.is_file():
        files = [root]
    else:
        files = sorted(
            p for p in root.rglob("*") if p.is_file() and p.suffix.lower() in FORMATS and p.name[0] not in "._"
        )
    unreadable = f"readable formats: {', '.join(FORMATS.values())}"
    if not files:
        found = sorted({p.suffix or p.name for p in root.rglob("*") if p.is_file()})
        what = f"no review files in this folder, only {', '.join(found[:5])}" if found else "this folder is empty"
        raise InputError(what, where=path, fix=unreadable)
    if files[0].suffix.lower() not in FORMATS:
        raise InputError(f"unknown format {files[0].suffix!r}", where=path, fix=unreadable)
    headers = [_check_file(file, FORMATS[file.suffix.lower()], profile) for file in files]
    with ThreadPoolExecutor(2) as pool:  # hashlib releases the interpreter's lock
        shas = list(pool.map(file_sha256, files))
    base = root if root.is_dir() else root.parent
    return Source(
        files=tuple(
            SourceFile(
                path=str(f.resolve()),
                name=f.relative_to(base).as_posix(),
                format=FORMATS[f.suffix.lower()],
                size=f.stat().st_size,
                sha256=sha,
                header=header,
            )
            for f, sha, header in zip(files, shas, headers, strict=True)
        ),
        profile=profile,
    )


def _check_file(path: Path, fmt: str, profile: Profile) -> bool:
    """Raise InputError unless the file can be what its name says and holds the mandatory columns."""
    if path.stat().st_size == 0:
        raise InputError("the file is empty", where=str(path), fix="remove it or write it again")
    if fmt == "parquet":
        _check_parquet(path, profile)
        return True
    with path.open("rb") as file:
        start = file.read(1 << 16)
    if start[:4] == b"PAR1" or start[:2] == b"\x1f\x8b":
        kind = "a parquet file" if start[:4] == b"PAR1" else "a gzip file"
        raise InputError(f"this is {kind}, not {fmt.upper()} text", where=str(path), fix="give it the right ending")
    first = start.split(b"\n", 1)[0].decode("utf-8-sig", errors="replace").rstrip("\r")
    delimiter = "," if fmt == "csv" else "\t"
    names = [n.strip().strip('"') for n in first.split(delimiter)]
    if profile.columns["rating"] in names or 2 * len(set(names) & set(profile.header)) >= len(names):
        _check_columns(path, names, profile)
        return True
    if profile.header and len(names) == len(profile.header):
        return False
    wanted = ", ".join(profile.columns[c] for c in MANDATORY)
    raise InputError(
        f"the first line has {len(names)} fields and is not the header that the profile expects",
        where=str(path),
        fix=f"the columns {wanted} are needed; is this the right dataset profile, and the file really {fmt.upper()}?",
    )


def _check_parquet(path: Path, profile: Profile) -> None:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        with path.open("rb") as file:
            starts_right = file.read(4) == b"PAR1"
        what = "the parquet file is cut off or damaged" if starts_right else "this is not a parquet file"
        raise InputError(
            f"{what} ({str(error).splitlines()[0]})", where=str(path), fix="write or copy it again"
        ) from None
    _check_columns(path, schema.names, profile)
    scalar = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_dictionary,
    )
    timely = (*scalar, pa.types.is_date, pa.types.is_timestamp)
    texty = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    for canonical, source in profile.columns.items():
        if source not in schema.names:
            continue
        kind = schema.field(source).type
        allowed = {"timestamp": timely, "text": texty, "title": texty, "verified": (*scalar, pa.types.is_boolean)}
        if not (pa.types.is_null(kind) or any(is_kind(kind) for is_kind in allowed.get(canonical, scalar))):
            raise InputError(
                f"column {source!r} has type {kind}, which cannot become {canonical} ({REVIEWS.field(canonical).type})",
                where=str(path),
                fix="map another column in the dataset profile, or write the file with a plain type",
            )


def _check_columns(path: Path, names: Sequence[str], profile: Profile) -> None:
    missing = [profile.columns[c] for c in MANDATORY if profile.columns[c] not in names]
    if missing:
        near = {m: get_close_matches(m, names, n=1) for m in missing}
        hints = [f"{m} (did you mean {found[0]}?)" if found else m for m, found in near.items()]
        raise InputError(
            f"mandatory column(s) missing: {', '.join(hints)}",
            where=str(path),
            fix=f"choose or write the dataset profile for these columns: {', '.join(names[:20])}",
        )


@dataclass(frozen=True)
class Unit:
    """A piece of one file: some row groups of a parquet file, or a whole text file. Rows count from `first_row`."""

    file: SourceFile
    row_groups: tuple[int, ...] = ()
    first_row: int = 0


Part = tuple[Unit, ...]


def plan(source: Source) -> list[Part]:
    """Cut the input into parts of 4 to 64 MiB (uncompressed), in row order, by the data alone."""
    sized = [sized_unit for file in source.files for sized_unit in _units(file)]
    total = sum(size for _, size in sized)
    target = min(max(total // PARTS_WANTED, PART_MIN_BYTES), PART_MAX_BYTES)
    parts: list[list[Unit]] = []
    filled = target
    for unit, size in sized:
        if filled + size // 2 >= target:
            parts.append([])
            filled = 0
        parts[-1].append(unit)
        filled += size
    return [tuple(part) for part in parts]


def _units(file: SourceFile) -> Iterator[tuple[Unit, int]]:
    if file.format != "parquet":
        yield Unit(file), file.size
        return
    meta = pq.read_metadata(file.path)
    first_row = 0
    for group in range(meta.num_row_groups):
        row_group = meta.row_group(group)
        yield Unit(file, (group,), first_row), row_group.total_byte_size
        first_row += row_group.num_rows


def load(part: Part, profile: Profile) -> tuple[pa.Table, pa.Table]:
    """Read one part: (usable rows as REVIEWS, the others as REJECTS), each in row order."""
    good, bad = [], []
    for unit in part:
        raw, unparsed = _read(unit, profile)
        kept, rejected = to_canonical(raw, profile, unit.file.name)
        check_nothing_lost(unit, kept.num_rows + rejected.num_rows, unparsed.num_rows, raw.height)
        good.append(kept)
        bad += [rejected, unparsed]
    return pa.concat_tables(good), pa.concat_tables(bad).sort_by([("source", "ascending"), ("row", "ascending")])


def check_nothing_lost(unit: Unit, mapped: int, unparsed: int, parsed: int) -> None:
    """Raise RowsLost unless each row read is usable or rejected, and a parquet footer's rows were all read."""
    there = parsed + unparsed
    if unit.file.format == "parquet":
        footer = pq.read_metadata(unit.file.path)
        there = sum(footer.row_group(group).num_rows for group in unit.row_groups)
    if mapped + unparsed != there:
        raise RowsLost(
            f"{there} rows, but {mapped + unparsed} usable or rejected",
            where=f"{unit.file.name}, from row {unit.first_row}",
            fix="this is a defect of ingest; please report it with the file",
        )


def _read(unit: Unit, profile: Profile) -> tuple[pl.DataFrame, pa.Table]:
    """The mapped source columns of a unit and `_row`, and the lines that could not be parsed."""
    file, wanted = unit.file, list(dict.fromkeys(profile.columns.values()))
    if file.format == "parquet":
        reader = pq.ParquetFile(file.path)
        try:
            table = reader.read_row_groups(
                unit.row_groups, columns=[c for c in wanted if c in reader.schema_arrow.names]
            )
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"damaged data: {error}", where=f"{file.path}, row group {unit.row_groups[0]}") from None
        rows = np.arange(unit.first_row, unit.first_row + table.num_rows)
        frame = pl.DataFrame(pl.from_arrow(table)).with_columns(
            pl.col(pl.Categorical, pl.Enum).cast(pl.String), _row=rows
        )
        return frame, REJECTS.empty_table()
    quote = (profile.csv if file.format == "csv" else profile.tsv).quote
    bad: list[tuple[int, str, int]] = []

    def keep_bad(row: pa_csv.InvalidRow) -> str:
        bad.append((row.number, row.text, row.actual_columns))
        return "skip"

    names = None if file.header else list(profile.header)
    try:
        table = pa_csv.read_csv(
            file.path,
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=16 << 20),
            parse_options=pa_csv.ParseOptions(
                delimiter="," if file.format == "csv" else "\t",
                quote_char=quote or False,
                newlines_in_values=quote is not None,
                invalid_row_handler=keep_bad,
            ),
            # Bytes, not text: one value that is not UTF-8 must not cost the file.
            convert_options=pa_csv.ConvertOptions(
                include_columns=wanted, include_missing_columns=True, column_types={c: pa.binary() for c in wanted}
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(
            f"cannot be parsed: {error}", where=file.path, fix="check quoting in the dataset profile"
        ) from None
    first = 2 if file.header else 1  # the parser counts lines from 1, the header's included
    bad_rows = [number - first for number, _, _ in bad]
    if quote and bad and bad_rows[-1] == table.num_rows + len(bad) - 1 and bad[-1][1].count(quote) % 2:
        raise InputError(
            "a quote that is opened here is never closed, and would swallow the rest of the file",
            where=f"{file.path}, row {bad_rows[-1]}",
            fix="mend that row, or set the quote in the dataset profile (null: quotes are data)",
        )
    rows = np.setdiff1d(np.arange(table.num_rows + len(bad)), bad_rows)
    decoded = {c: _decode(table[c]) for c in wanted}
    frame = pl.DataFrame(decoded).with_columns(_row=rows)
    unparsed = pa.table(
        {
            "reason": [f"{n} fields in the line" for _, _, n in bad],
            "source": [file.name] * len(bad),
            "row": bad_rows,
            "record": [json.dumps(text[:2000], ensure_ascii=False) for _, text, _ in bad],
        },
        schema=REJECTS,
    )
    return frame, unparsed


def _decode(column: pa.ChunkedArray) -> pl.Series:
    """Bytes to text; the empty field is null, bytes that are not UTF-8 become U+FFFD."""
    if column.type == pa.null():
        return pl.Series(values=[None] * len(column), dtype=pl.String)
    try:
        texts = pl.Series(values=pl.from_arrow(column.cast(pa.string())))
    except pa.ArrowInvalid:
        texts = pl.Series(values=[b.decode("utf-8", errors="replace") for b in column.to_pylist()], dtype=pl.String)
    return texts.set(texts == "", None)


def to_canonical(raw: pl.DataFrame, profile: Profile, source: str) -> tuple[pa.Table, pa.Table]:
    """Map a frame of source columns and `_row` to (REVIEWS, REJECTS). Every row goes to one of them."""
    found = {c: s for c, s in profile.columns.items() if s in raw.columns}
    have = [pl.col(s).alias(c) if c != "timestamp" else _timestamp(raw, s, profile) for c, s in found.items()]
    lacking = [pl.lit(None, dtype=pl.String).alias(c) for c in REVIEWS.names if c not in found]
    frame = raw.select(*have, *lacking, "_row", _given_time=pl.col(found["timestamp"]).is_not_null())
    rating_given = pl.col("rating").is_not_null()
    frame = frame.with_columns(
        pl.col("review_id", "user_id", "item_id", "category").cast(pl.String).str.strip_chars(),
        pl.col("title", "text").cast(pl.String).fill_null(""),
        pl.col("rating").cast(pl.Float32, strict=False),
        pl.col("helpful_votes", "total_votes").cast(pl.Int32, strict=False),
        _flag(raw, found.get("verified"), profile).alias("verified"),
        _rating_given=rating_given,
    )
    empty = {c: pl.col(c).is_null() | (pl.col(c) == "") for c in ("user_id", "item_id")}
    frame = frame.with_columns(
        _reason=pl.when(empty["user_id"])
        .then(pl.lit("no user_id"))
        .when(empty["item_id"])
        .then(pl.lit("no item_id"))
        .when(~pl.col("_rating_given"))
        .then(pl.lit("no rating"))
        .when(pl.col("rating").is_null() | pl.col("rating").is_nan())
        .then(pl.lit("rating is not a number"))
        .when(~pl.col("rating").is_between(1, 5))
        .then(pl.lit("rating outside 1..5"))
        .when(~pl.col("_given_time"))
        .then(pl.lit("no timestamp"))
        .when(pl.col("timestamp").is_null())
        .then(pl.lit("timestamp not understood"))
    )
    kept = _with_ids(frame.filter(pl.col("_reason").is_null()).select(REVIEWS.names))
    wrong = frame.filter(pl.col("_reason").is_not_null()).select(reason="_reason", row="_row")
    records = raw.filter(frame["_reason"].is_not_null()).drop("_row").to_dicts()
    rejected = pa.table(
        {
            "reason": wrong["reason"].to_arrow(),
            "source": [source] * len(wrong),
            "row": wrong["row"].to_arrow(),
            "record": [json.dumps(r, ensure_ascii=False, default=str) for r in records],
        }
    ).cast(REJECTS)
    return kept.to_arrow().cast(REVIEWS), rejected


def _timestamp(raw: pl.DataFrame, column: str, profile: Profile) -> pl.Expr:
    kind = raw.schema[column]
    value = pl.col(column)
    if kind == pl.String:
        parsed = [
            value.str.to_datetime(f, strict=False, time_unit="ms", time_zone="UTC") for f in profile.timestamp.formats
        ]
        return pl.coalesce(parsed).alias("timestamp") if parsed else pl.lit(None).alias("timestamp")
    if kind.is_numeric():
        return value.cast(pl.Int64, strict=False).cast(pl.Datetime("ms", "UTC")).alias("timestamp")
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        return value.dt.convert_time_zone("UTC").dt.cast_time_unit("ms").alias("timestamp")
    return value.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").alias("timestamp")


def _flag(raw: pl.DataFrame, column: str | None, profile: Profile) -> pl.Expr:
    if column is None:
        return pl.lit(None, dtype=pl.Boolean)
    if raw.schema[column] == pl.Boolean:
        return pl.col("verified")
    word = pl.col("verified").cast(pl.String).str.strip_chars().str.to_lowercase()
    yes, no = profile.flags.get("true", []), profile.flags.get("false", [])
    return pl.when(word.is_in(yes)).then(True).when(word.is_in(no)).then(False)


def _with_ids(kept: pl.DataFrame) -> pl.DataFrame:
    """Give rows without a review_id one: 96 bits of sha256 over what the review says, stable everywhere."""
    lacking = kept["review_id"].is_null() | (kept["review_id"] == "")
    if not lacking.any():
        return kept
    said = kept.filter(lacking).select("user_id", "item_id", "timestamp", "rating", "title", "text").rows()
    made = [hashlib.sha256(repr(row).encode()).hexdigest()[:24] for row in said]
    ids = kept["review_id"].to_numpy().copy()
    ids[lacking.to_numpy()] = made
    return kept.with_columns(review_id=pl.Series(ids, dtype=pl.String))
