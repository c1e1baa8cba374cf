"""Name what differs between what two snapshots were made from: settings, code, libraries, files and inputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tasks.core.secrets import masked, masked_within
from tasks.core.snapshots import InputRef, Provenance

Kind = Literal["format", "version", "setting", "code", "library", "file", "source", "input"]
FEW = 3  # names that a line shows
CODE_KEYS = ("source", "version")
MISSING = "–"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Change:
    """One thing that decides a stage's output and is not as it was: `before` and `now` are JSON values or None."""

    kind: Kind
    name: str
    says: str
    before: Any = None
    now: Any = None

    def as_json(self) -> dict[str, Any]:
        about = {"kind": self.kind, "name": self.name, "says": self.says, "before": self.before, "now": self.now}
        masked_about: dict[str, Any] = masked_within(about)
        return masked_about


def changes(then: Provenance, now: Provenance, section: str = "") -> list[Change]:
    """List what is not as it was, what a user changes most first.

    section: the name of the stage's settings. An input of `now` without a digest is not known yet, and no change.
    """
    return [
        *_settings(then.config, now.config, section or now.stage.replace("-", "_")),
        *_inputs(then, now),
        *_code(then, now),
        *_versions(then, now),
    ]


def _settings(then: Mapping[str, Any], now: Mapping[str, Any], path: str) -> Iterator[Change]:
    for key in sorted({*then, *now}):
        before, after, name = then.get(key), now.get(key), f"{path}.{key}"
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _settings(before, after, name)
        else:
            was, is_now = (_shown(side, key) for side in (then, now))
            yield Change("setting", name, masked(f"setting {name}: {was} → {is_now}"), before, after)


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return MISSING
    text = json.dumps(values[key], ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _inputs(then: Provenance, now: Provenance) -> Iterator[Change]:
    before, after = ({i.name: i for i in side.inputs} for side in (then, now))
    for name in dict.fromkeys([*after, *before]):
        was, is_now = before.get(name), after.get(name)
        if was is None and is_now is not None:
            yield Change("input", is_now.stage, f"{is_now.stage} is a new input", None, is_now.digest or None)
        elif was is not None and is_now is None:
            yield Change("input", was.stage, f"{was.stage} is no longer an input", was.digest, None)
        elif was is not None and is_now is not None and is_now.digest not in ("", was.digest):
            kind: Kind = "input" if is_now.key else "source"
            yield Change(kind, is_now.stage, _input_says(was, is_now), was.digest, is_now.digest)


def _input_says(then: InputRef, now: InputRef) -> str:
    if now.key or not then.contents:
        what = "the input" if not now.key else now.stage
        return f"{what} is another one: {then.digest[:8]} → {now.digest[:8]}"
    groups = dict.fromkeys([*now.contents, *then.contents])
    said = [_names(group, then.contents.get(group, {}), now.contents.get(group, {})) for group in groups]
    return "; ".join(filter(None, said))


def _names(group: str, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say which names of an input's contents are new, changed and gone: `files: 2 new (a, b), 1 gone (c)`."""
    said = [f"{len(names)} {what} ({some(names)})" for what, names in _sorted_out(then, now).items() if names]
    return f"{group}: {', '.join(said)}" if said else ""


def _sorted_out(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        "new": [name for name in now if name not in then],
        "changed": [name for name in now if then.get(name, now[name]) != now[name]],
        "gone": [name for name in then if name not in now],
    }


def some(names: list[str]) -> str:
    """Name the first few."""
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more:,} more" if more > 0 else "")


def _code(then: Provenance, now: Provenance) -> Iterator[Change]:
    if then.code.get("source") == now.code.get("source"):
        return
    apart = _sorted_out(then.modules, now.modules) if then.modules and now.modules else {}
    parts = [
        f"{some(names)}" + {"new": " (new)", "changed": "", "gone": " (gone)"}[what]
        for what, names in ((w, apart.get(w, [])) for w in ("changed", "new", "gone"))
        if names
    ]
    says = f"code of {', '.join(parts)}" if parts else "its code, in a module that the older snapshot does not name"
    before, after = ({name: side.modules[name] for names in apart.values() for name in names if name in side.modules}
                     for side in (then, now))  # fmt: skip
    yield Change("code", "source", says, before or then.code.get("source"), after or now.code.get("source"))


def _versions(then: Provenance, now: Provenance) -> Iterator[Change]:
    """List changes of the stage's declared version, of libraries, and of files in conf and those that settings name."""
    if then.format != now.format:
        yield Change("format", "format", f"format of snapshots: {then.format} → {now.format}", then.format, now.format)
    for name in dict.fromkeys([*now.code, *then.code]):
        before, after = then.code.get(name), now.code.get(name)
        if before == after or name == "source":
            continue
        if name == "version":
            yield Change("version", name, f"version of the stage: {before} → {after}", before, after)
        elif _SHA256.fullmatch(after or before or ""):
            yield _file(f"conf/{name}", before, after)
        else:
            yield Change("library", name, f"{name} {before or MISSING} → {after or MISSING}", before, after)
    if then.modules or then.read:  # older manifests do not keep what was read
        for name in dict.fromkeys([*now.read, *then.read]):
            if then.read.get(name) != now.read.get(name):
                yield _file(name, then.read.get(name), now.read.get(name))


def _file(name: str, before: str | None, after: str | None) -> Change:
    what = "is new" if before is None else "is gone" if after is None else "changed"
    return Change("file", name, f"{name} {what}", before, after)
