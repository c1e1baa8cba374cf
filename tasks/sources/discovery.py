"""Find the raw files and detect each one's format by its first bytes, not by its name.

`discover` reads names, headers and types only. It quarantines a file that the profile cannot read, with the reason; if
no file is left, or `damaged_files: refuse` is set, it raises InputError before any work is done.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import BinaryIO
from urllib.parse import urlsplit

from tasks.core.errors import InputError
from tasks.core.settings import load_section
from tasks.sources import dialects, locations, signatures, streams
from tasks.sources.file_checks import Kind, Unreadable, check_parquet, item_columns
from tasks.sources.opening import HEAD_BYTES, limits, opened
from tasks.sources.own_profile import folder_values, with_folders, with_names, without
from tasks.sources.profiles import Profile, load_profile
from tasks.sources.settings import IngestConfig, ReadConfig
from tasks.sources.source_files import Quarantined, Source, SourceFile
from tasks.sources.text_shapes import Shape, readable_encoding, sniff_text

__all__ = ["HEAD_BYTES", "Quarantined", "Source", "SourceFile", "discover", "limits", "look", "sniff"]

Judge = Callable[[SourceFile, bytes, Profile, ReadConfig], SourceFile]


def unjudged(file: SourceFile, start: bytes, profile: Profile, config: ReadConfig) -> SourceFile:
    return file


def discover(
    inputs: str | Sequence[str],
    dataset: str,
    config: ReadConfig | None = None,
    kind: Kind = "reviews",
    judge: Judge = unjudged,
    *,
    rated: bool = True,
) -> Source:
    """Find the files, detect each one's format, and hash them. Raises InputError or ProfileError.

    judge: decides what the file's rows decide, from its first bytes and the file; may raise Unreadable. rated: whether
    a review without a usable rating is of no use.
    """
    profile = load_profile(dataset).model_copy(update={"needs_rating": rated})
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
    aside: list[Quarantined] = []
    for file in locations.find(addresses):
        if file.problem and file.left_out:
            aside.append(Quarantined(file.name, file.problem, left_out=True))
            continue
        if file.problem:
            wrong.append((file.name, file.path, Unreadable(file.problem, file.fix)))
            continue
        try:
            for entry in _look(file, profile, config, kind, judge):
                if isinstance(entry, SourceFile):
                    files.append(entry)
                elif entry.left_out:
                    aside.append(entry)
                else:
                    wrong.append((entry.name, file.path, Unreadable(entry.reason, "write the archive again")))
        except Unreadable as problem:
            if file.doubtful and not problem.of_reviews:
                aside.append(_no_review_file(file, problem))
            else:
                wrong.append((file.name, file.path, problem))
    if wrong and (not files or config.damaged_files == "refuse"):
        _, path, first = wrong[0]
        others = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        raise InputError(f"{first.what}{others}", where=path, fix=first.fix)
    if not files:
        names = ", ".join(q.name for q in aside[:5])
        raise InputError(
            f"no review files here, only {names} ({aside[0].reason})",
            where=", ".join(addresses),
            fix=f"readable endings: {', '.join(locations.ENDINGS)}, each also packed",
        )
    return Source(
        files=_hashed(files),
        profile=profile,
        quarantined=tuple(Quarantined(name, problem.what) for name, _, problem in wrong),
        left_out=tuple(aside),
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
        return [], [Quarantined(file.name, file.problem, file.left_out, file.fix)]
    try:
        entries = _look(file, profile, config, kind, judge)
    except Unreadable as problem:
        damaged = Quarantined(file.name, problem.what, fix=problem.fix)
        return [], [_no_review_file(file, problem) if file.doubtful and not problem.of_reviews else damaged]
    wrong = [e for e in entries if isinstance(e, Quarantined)]
    return [e for e in entries if isinstance(e, SourceFile)], wrong


def _no_review_file(file: locations.RawFile, problem: Unreadable) -> Quarantined:
    return Quarantined(file.name, f"neither its name nor its content is that of reviews: {problem.what}", left_out=True)


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
        if words := signatures.workbook([m.name for m in members]):
            raise Unreadable(f"this is {words[0]}", words[1])
        return _look_at_members(file, raw, members, profile, config, kind, judge)


def _look_at_members(
    file: locations.RawFile,
    raw: BinaryIO,
    members: Sequence[streams.Member],
    profile: Profile,
    config: ReadConfig,
    kind: Kind,
    judge: Judge,
) -> list[SourceFile | Quarantined]:
    readable = [m for m in members if locations.ending(m.name) in (*locations.ENDINGS, ".zip", "") or m.problem]
    if not readable:
        inside = ", ".join(sorted({locations.ending(m.name) or m.name for m in members})[:5]) or "nothing"
        raise Unreadable(
            f"this zip file holds no review files, only {inside}",
            f"readable endings: {', '.join(locations.ENDINGS)}",
        )
    entries: list[SourceFile | Quarantined] = []
    for member in members:
        name, kind_of_name = f"{file.name}/{member.name}", locations.ending(member.name)
        if member not in readable:
            reason = f"its ending, {kind_of_name}, is none of those that are read"
            entries.append(Quarantined(name, reason, left_out=True))
            continue
        try:
            if member.problem:
                raise Unreadable(member.problem, "write the archive again")
            if member.size == 0:
                raise Unreadable("the file is empty", "remove it or write it again")
            entries.append(_look_inside(file, raw, "zip", member, profile, config, kind, judge))
        except Unreadable as problem:
            if len(readable) == 1:
                raise
            entries.append(
                Quarantined(name, problem.what, left_out=not (kind_of_name or member.problem or problem.of_reviews))
            )
    return entries


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
    unpacked, start, inner = opened(raw, packing, member, config)
    name = f"{file.name}/{member.name}" if member else file.name
    values = folder_values(urlsplit(file.path).path, file.name, member.name if member else "")
    own = with_folders(profile, values)
    longest = config.max_record_mb << 20
    shape = sniff(start, lambda size=longest: unpacked.read(size) or b"", name, own, kind)
    header = shape.header
    names: Sequence[str] = shape.names
    empty: Sequence[str] = ()
    if shape.format == "parquet":
        if packing:
            raise Unreadable(f"a parquet file inside {packing}", "unpack it; parquet is packed already")
        names, empty = check_parquet(file.path, own, config, kind)
    if header is not None and len(header) > config.max_columns:
        raise Unreadable(
            f"{len(header):,} columns; the limit is {config.max_columns:,}",
            "raise ingest.max_columns if the file is right",
        )
    own = without(with_names(own, names), empty)
    found = SourceFile(
        file.path,
        name,
        file.size,
        sha256="",
        packing=packing,
        member=member,
        inner=inner,
        own=None if own == profile else own,
        folders=tuple((k, v) for k, v in values.items() if k in item_columns(profile, kind) or not profile.columns),
        **shape.of_file(),
    )
    return judge(found, start, own, config) if kind == "reviews" else found


def sniff(start: bytes, more: Callable[..., bytes], name: str, profile: Profile, kind: Kind) -> Shape:
    """Detect format, quoting and header from a file's first (unpacked) bytes. Raises Unreadable."""
    ending = locations.ending(name)
    if start[:4] == b"PAR1":
        return Shape("parquet")
    if words := signatures.stand_in(start):
        raise Unreadable(f"this is {words[0]}", words[1])
    if ending == ".parquet":
        raise Unreadable("this is not a parquet file", "write or copy it again")
    encoding, others = readable_encoding(start, profile)
    whole = len(start) < HEAD_BYTES
    if encoding == "utf-8":
        shape = sniff_text(dialects.without_preface(start), more, ending, profile, kind, whole=whole)
    else:
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        text = decoder.decode(start).encode("utf-8", "replace")

        def decoded(*size: int) -> bytes:
            return decoder.decode(more(*size)).encode("utf-8", "replace")

        shape = sniff_text(dialects.without_preface(text), decoded, ending, profile, kind, whole=whole)
    return replace(shape, encoding=encoding, other_encodings=others)
