"""Describe the raw input of a run: its files, those that are not read, and the profile."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.digests import digest_of
from tasks.sources import streams
from tasks.sources.file_checks import Kind
from tasks.sources.forgotten import Forgotten
from tasks.sources.profiles import Profile, Quoting
from tasks.sources.text_shapes import Format


@dataclass(frozen=True)
class SourceFile:
    """One raw file, or one member of a zip. `name` is relative to the input.

    `header` is the first row of a delimited file, or None where the profile supplies the header. `rows_at` are the
    paths of the arrays with the rows in a JSON object that wraps them, `beside` those of its arrays of other columns,
    which are not read. `other_encodings` are as likely where `encoding` is a guess. `inner` is the packing inside
    `packing` of a file packed twice, `own` the profile as adapted to this file. `folders` are values that its folders
    give to columns that no profile maps by name: those of product metadata, or all where no profile is known yet.
    `time_formats` are those of the profile's that its dates fit, None for all (see day_order)."""

    path: str
    name: str
    size: int
    sha256: str
    format: Format
    packing: str | None = None
    member: streams.Member | None = None
    quoting: Quoting | None = None
    header: tuple[str, ...] | None = None
    rows_at: tuple[tuple[str, ...], ...] = ()
    beside: tuple[tuple[str, ...], ...] = ()
    encoding: str = "utf-8"
    other_encodings: tuple[str, ...] = ()
    inner: str | None = None
    own: Profile | None = None
    folders: tuple[tuple[str, str], ...] = ()
    time_formats: tuple[str, ...] | None = None

    @property
    def adaptation(self) -> list[object]:
        """Return what is read otherwise than the profile says, as JSON values; empty if nothing is."""
        own = [self.own.model_dump(mode="json")] if self.own else []
        return [*own, list(self.folders)] if own or self.folders else []


@dataclass(frozen=True)
class Quarantined:
    """A file that is not read, and why. `left_out`: it is no damaged review file."""

    name: str
    reason: str
    left_out: bool = False
    fix: str = ""


@dataclass(frozen=True)
class Source:
    """The raw input of a run: files and the profile that reads them. A stage takes it in place of a snapshot.

    `left_out` are other files in the given folders: not review files by name and content, or hidden. `forgotten`: users
    whose reviews are not read, None if there are none."""

    files: tuple[SourceFile, ...]
    profile: Profile
    quarantined: tuple[Quarantined, ...] = ()
    left_out: tuple[Quarantined, ...] = ()
    kind: Kind = "reviews"
    forgotten: Forgotten | None = None
    stage: str = "source"
    key: str = ""

    @property
    def contents(self) -> dict[str, dict[str, str]]:
        """Return what `digest` covers, by kind and name, each with a short digest."""
        profile = self.profile.model_dump(mode="json")
        return {
            "files of the input": {f.name: digest_of([f.sha256, f.adaptation])[:16] for f in self.files},
            "unreadable files": {q.name: digest_of(q.reason)[:16] for q in self.quarantined},
            "files left out": {q.name: digest_of(q.reason)[:16] for q in self.left_out},
            "dataset profile": {name: digest_of(value)[:16] for name, value in profile.items()},
            **({"users to forget": {"the list": self.forgotten.digest[:16]}} if self.forgotten else {}),
        }

    @property
    def digest(self) -> str:
        files = [(f.name, f.sha256) for f in self.files]
        wrong = [(q.name, q.reason) for q in self.quarantined]
        profile = self.profile.model_dump(mode="json")
        content: dict[str, object] = {"files": files, "quarantined": wrong, "profile": profile, "kind": self.kind}
        if aside := [(q.name, q.reason) for q in self.left_out]:
            content["left_out"] = aside
        if own := [(f.name, f.adaptation) for f in self.files if f.adaptation]:
            content["own"] = own
        if self.forgotten:
            content["forgotten"] = self.forgotten.digest
        return digest_of(content)
