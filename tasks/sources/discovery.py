"""Find the raw files and detect each one's format by its first bytes, not by its name.

`discover` reads names, headers and types only. It quarantines a file that the profile cannot read, with the reason; if
no file is left, or `damaged_files: refuse` is set, it raises InputError before any work is done.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO, Literal

from tasks.core.digests import digest_of
from tasks.core.errors import InputError
from tasks.core.settings import load_section
from tasks.sources import locations, streams
from tasks.sources.file_checks import Kind, Unreadable, check_columns, check_json_lines, check_parquet, item_id_path
from tasks.sources.profiles import Profile, Quoting, load_profile
from tasks.sources.settings import IngestConfig, ReadConfig

Format = Literal["parquet", "json-lines", "json-array", "delimited"]
HEAD_BYTES = 1 << 16
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class SourceFile:
    """One raw file, or one member of a zip. `name` is relative to the input; `header` is the first row of a
    delimited file, or None where the profile supplies the header."""

    path: str
    name: str
    size: int
    sha256: str
    format: Format
    packing: str | None = None
    member: streams.Member | None = None
    quoting: Quoting | None = None
    header: tuple[str, ...] | None = None
    time_formats: tuple[str, ...] | None = None  # of the profile's, those that fit; None: all (see day_order)


Judge = Callable[[SourceFile, bytes, Profile, ReadConfig], SourceFile]


def unjudged(file: SourceFile, start: bytes, profile: Profile, config: ReadConfig) -> SourceFile:
    return file


@dataclass(frozen=True)
class Quarantined:
    """A file that is not read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Source:
    """The raw input of a run: files and the profile that reads them. A stage takes it in place of a snapshot."""

    files: tuple[SourceFile, ...]
    profile: Profile
    quarantined: tuple[Quarantined, ...] = ()
    kind: Kind = "reviews"
    stage: str = "source"
    key: str = ""

    @property
    def digest(self) -> str:
        files = [(f.name, f.sha256) for f in self.files]
        wrong = [(q.name, q.reason) for q in self.quarantined]
        profile = self.profile.model_dump(mode="json")
        return digest_of({"files": files, "quarantined": wrong, "profile": profile, "kind": self.kind})


def discover(
    inputs: str | Sequence[str],
    dataset: str,
    config: ReadConfig | None = None,
    kind: Kind = "reviews",
    judge: Judge = unjudged,
) -> Source:
    """Find the files, detect each one's format, and hash them. Raises InputError or ProfileError.

    judge: decides what the file's rows decide, from its first bytes and the file; may raise Unreadable.
    """
    profile = load_profile(dataset)
    config = config or load_section("ingest", IngestConfig)
    addresses = [inputs] if isinstance(inputs, str) else list(inputs)
    if kind == "items" and profile.items is None:
        raise InputError(
            f"the dataset profile {dataset!r} does not say how to read product metadata",
            where=", ".join(addresses),
            fix="add an `items:` section to it; conf/datasets/amazon-2014.yaml has one",
        )
    files: list[SourceFile] = []
    wrong: list[tuple[str, str, Unreadable]] = []
    for file in locations.find(addresses):
        if file.problem:
            wrong.append((file.name, file.path, Unreadable(file.problem, "to read it anyway, name the file itself")))
            continue
        try:
            for entry in _look(file, profile, config, kind, judge):
                if isinstance(entry, SourceFile):
                    files.append(entry)
                else:
                    wrong.append((entry.name, file.path, Unreadable(entry.reason, "write the archive again")))
        except Unreadable as problem:
            wrong.append((file.name, file.path, problem))
    if wrong and (not files or config.damaged_files == "refuse"):
        _, path, first = wrong[0]
        others = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        raise InputError(f"{first.what}{others}", where=path, fix=first.fix)
    return Source(
        files=_hashed(files),
        profile=profile,
        quarantined=tuple(Quarantined(name, problem.what) for name, _, problem in wrong),
        kind=kind,
    )


def look(
    file: locations.RawFile,
    profile: Profile,
    config: ReadConfig,
    kind: Kind = "reviews",
    judge: Judge = unjudged,
) -> tuple[list[SourceFile], list[Quarantined]]:
    """Detect one file's format as `discover` does, without hashing; returns what is readable and what is not."""
    if file.problem:
        return [], [Quarantined(file.name, file.problem)]
    try:
        entries = _look(file, profile, config, kind, judge)
    except Unreadable as problem:
        return [], [Quarantined(file.name, problem.what)]
    wrong = [e for e in entries if isinstance(e, Quarantined)]
    return [e for e in entries if isinstance(e, SourceFile)], wrong


def _hashed(files: Sequence[SourceFile]) -> tuple[SourceFile, ...]:
    paths = list(dict.fromkeys(f.path for f in files))
    with ThreadPoolExecutor(4) as pool:  # hashlib releases the interpreter's lock
        shas = dict(zip(paths, pool.map(_sha256, paths), strict=True))
    return tuple(SourceFile(**{**f.__dict__, "sha256": shas[f.path]}) for f in files)


def _sha256(path: str) -> str:
    sha = hashlib.sha256()
    with locations.open_raw(path) as raw:
        for chunk in locations.chunks(raw):
            sha.update(chunk)
    return sha.hexdigest()


def _look(
    file: locations.RawFile, profile: Profile, config: ReadConfig, kind: Kind, judge: Judge
) -> list[SourceFile | Quarantined]:
    if file.size == 0:
        raise Unreadable("the file is empty", "remove it or write it again")
    with locations.open_raw(file.path) as raw:
        start = raw.read(16)
        raw.seek(0)
        packing = streams.packing(start)
        if packing != "zip":
            return [_look_inside(file, raw, packing, None, profile, config, kind, judge)]
        try:
            members = streams.members(raw)
        except ValueError as error:
            raise Unreadable(str(error), "write or copy it again") from None
        readable = [m for m in members if locations.ending(m.name) in locations.ENDINGS or m.problem]
        if not readable:
            inside = ", ".join(sorted({locations.ending(m.name) or m.name for m in members})[:5]) or "nothing"
            raise Unreadable(
                f"this zip file holds no review files, only {inside}",
                f"readable endings: {', '.join(locations.ENDINGS)}",
            )
        entries: list[SourceFile | Quarantined] = []
        for member in readable:
            name = f"{file.name}/{member.name}"
            try:
                if member.problem:
                    raise Unreadable(member.problem, "write the archive again")
                if member.size == 0:
                    raise Unreadable("the file is empty", "remove it or write it again")
                entries.append(_look_inside(file, raw, packing, member, profile, config, kind, judge))
            except Unreadable as problem:
                if len(readable) == 1:
                    raise
                entries.append(Quarantined(name, problem.what))
        return entries


def limits(config: ReadConfig) -> streams.Limits:
    return streams.Limits(max_bytes=config.max_unpacked_gb << 30, max_ratio=config.max_unpacked_ratio)


def _look_inside(
    file: locations.RawFile,
    raw: BinaryIO,
    packing: str | None,
    member: streams.Member | None,
    profile: Profile,
    config: ReadConfig,
    kind: Kind,
    judge: Judge,
) -> SourceFile:
    unpacked = streams.Unpacked(raw, packing, limits(config), member)
    start = unpacked.read(HEAD_BYTES) or b""
    if not start:
        raise Unreadable(unpacked.damage or "the file unpacks to nothing", "write or copy it again")
    name = f"{file.name}/{member.name}" if member else file.name
    fmt, quoting, header = sniff(start, lambda: unpacked.read(config.max_record_mb << 20) or b"", name, profile, kind)
    if fmt == "parquet":
        if packing:
            raise Unreadable(f"a parquet file inside {packing}", "unpack it; parquet is packed already")
        check_parquet(file.path, profile, config, kind)
    if header is not None and len(header) > config.max_columns:
        raise Unreadable(
            f"{len(header):,} columns; the limit is {config.max_columns:,}",
            "raise ingest.max_columns if the file is right",
        )
    found = SourceFile(file.path, name, file.size, "", fmt, packing, member, quoting, header)
    return judge(found, start, profile, config) if kind == "reviews" else found


def sniff(
    start: bytes, more: Callable[[], bytes], name: str, profile: Profile, kind: Kind
) -> tuple[Format, Quoting | None, tuple[str, ...] | None]:
    """Detect format, quoting and header from a file's first (unpacked) bytes. Raises Unreadable."""
    ending = locations.ending(name)
    if start[:4] == b"PAR1":
        if ending not in (".parquet", ""):
            raise Unreadable(f"this is a parquet file, not {ending[1:].upper()} text", "give it the right ending")
        return "parquet", None, None
    if ending == ".parquet":
        raise Unreadable("this is not a parquet file", "write or copy it again")
    text = start.removeprefix(BOM).lstrip()
    if not text:
        raise Unreadable("the file holds only white space", "remove it or write it again")
    if start.count(0) > len(start) // 8 or start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        wide = " (UTF-16?)" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise Unreadable(
            f"this is not UTF-8 or similar text{wide}", f"readable endings: {', '.join(locations.ENDINGS)}"
        )
    if text[:1] == b"{" and ending not in (".csv", ".tsv"):
        check_json_lines(text, profile, kind)
        return "json-lines", None, None
    if text[:1] == b"[" and ending not in (".csv", ".tsv"):
        return "json-array", None, None
    if ending in (".json", ".jsonl", ".ndjson"):
        raise Unreadable("the first line is not a JSON object", "give JSON lines, or one array of objects")
    if b"\n" not in start:
        start += more()
    return "delimited", *_delimited(start.removeprefix(BOM), ending, profile, kind)


def _delimited(start: bytes, ending: str, profile: Profile, kind: Kind) -> tuple[Quoting, tuple[str, ...] | None]:
    by_ending: dict[str, list[Quoting]] = {".csv": [profile.csv], ".tsv": [profile.tsv]}
    choices = by_ending.get(ending, [profile.tsv, profile.csv])
    failures: list[Sequence[str]] = []
    for quoting in choices:
        first = first_record(start, quoting, profile.encoding)
        needed_columns = set(profile.mandatory) if kind == "reviews" else {item_id_path(profile)}
        if needed_columns <= set(first) or 2 * len(set(first) & set(profile.header)) >= len(first) > 1:
            check_columns(first, profile, kind)
            return quoting, tuple(first)
        if needed_columns & set(first):
            failures.insert(0, first)
        elif profile.header and len(first) == len(profile.header):
            return quoting, None
        else:
            failures.append(first)
    if needed_columns & set(failures[0]):
        check_columns(failures[0], profile, kind)
    columns = ", ".join(sorted(needed_columns))
    raise Unreadable(
        f"the first line has {len(failures[0])} fields and is not the header that the profile expects",
        f"check that the file is {ending[1:].upper() or 'CSV'} and that the dataset profile is right, which needs the "
        f"columns {columns}; `raymill data inspect` proposes a profile",
    )


def first_record(start: bytes, quoting: Quoting, encoding: str) -> list[str]:
    text = start.decode(encoding, errors="replace")
    if quoting.quote is None:
        return [n.strip() for n in text.split("\n", 1)[0].rstrip("\r").split(quoting.delimiter)]
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=quoting.delimiter, quotechar=quoting.quote)
    return [n.strip() for n in next(reader, [])]
