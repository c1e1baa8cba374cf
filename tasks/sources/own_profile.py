"""Adapt a dataset profile to one file: values in the names of its folders, column names in another case, columns
without a value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote

from tasks.sources.profiles import Profile

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


def folder_values(*paths: str) -> dict[str, str]:
    """Return the columns that Hive-style folders (`category=Toys%20%26%20Games/`) give to all rows of a file.

    A value that means null is the empty text. The last folder of a name counts."""
    parts = [part for path in paths for part in PurePosixPath(path).parent.parts]
    pairs = [part.split("=", 1) for part in parts if "=" in part[1:]]
    return {unquote(key): "" if value == HIVE_NULL else unquote(value) for key, value in pairs}


def with_folders(profile: Profile, values: dict[str, str]) -> Profile:
    """Return the profile with the values of folders for the columns that it maps, where the file has no value."""
    found = {}
    for canonical, source in profile.columns.items():
        matches = [source] if source in values else [key for key in values if _plain(key) == _plain(source)]
        if len(matches) == 1:
            found[canonical] = values[matches[0]]
    return profile.model_copy(update={"defaults": {**profile.defaults, **found}}) if found else profile


def with_names(profile: Profile, names: Sequence[str]) -> Profile:
    """Return the profile with the file's own names of columns that differ from the profile's in case only."""
    lacking = [name for name in profile.wanted if name not in names]
    if not lacking:
        return profile
    taken = {*profile.wanted}
    own = {name: found[0] for name in lacking if len(found := _in_another_case(name, names, taken)) == 1}
    if not own:
        return profile
    changes: dict[str, object] = {"columns": {c: own.get(s, s) for c, s in profile.columns.items()}}
    if profile.votes and profile.votes.pair in own:
        changes["votes"] = profile.votes.model_copy(update={"pair": own[profile.votes.pair]})
    return profile.model_copy(update=changes)


def without(profile: Profile, empty: Iterable[str]) -> Profile:
    """Return the profile without these columns of the file, which hold no value."""
    gone = set(empty)
    if not gone:
        return profile
    changes: dict[str, object] = {"columns": {c: s for c, s in profile.columns.items() if s not in gone}}
    if profile.votes and profile.votes.pair in gone:
        changes["votes"] = None
    return profile.model_copy(update=changes)


def adaptations(profile: Profile, files: Sequence[tuple[str, Profile]]) -> list[str]:
    """Describe how files (names and own profiles) are read otherwise than the profile says."""
    where: dict[str, list[str]] = {}
    values: dict[str, list[str]] = {}
    for name, own in files:
        for canonical, source in profile.columns.items():
            given = own.defaults.get(canonical)
            if given is not None and given != profile.defaults.get(canonical):
                what = f"{canonical} is taken from the names of folders"
                where.setdefault(what, []).append(name)
                values.setdefault(what, []).append(str(given))
            if (other := own.columns.get(canonical)) is None:
                where.setdefault(f"column {source!r} has another type than {canonical} but no value", []).append(name)
            elif other != source:
                where.setdefault(f"column {other!r} is taken for {source!r}", []).append(name)
    return [
        f"{what}{_listed(values[what]) if what in values else ''}, in {len(names):,} file(s) such as {names[0]}"
        for what, names in where.items()
    ]


def _listed(values: Sequence[str]) -> str:
    distinct = [*dict.fromkeys(map(repr, values))]
    return f" ({', '.join(distinct[:3])}{', …' if len(distinct) > 3 else ''})"


def _in_another_case(name: str, names: Sequence[str], taken: set[str]) -> list[str]:
    return [other for other in names if other not in taken and _plain(other) == _plain(name)]


def _plain(name: str) -> str:
    return name.strip().casefold()
