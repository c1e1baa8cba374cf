"""The stage contract: a stage is a plain function from snapshots to a snapshot.

    @stage(version=1, config=CleanConfig)
    def clean(raw: Snapshot, config: CleanConfig, out: SnapshotWriter) -> None: ...

`run_stage` takes every stage through the same steps: key, reuse, run, validate, commit. It does not depend on Prefect,
Ray, MLflow or Great Expectations; callers pass functions in.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from tasks.core import faults, locks
from tasks.core.digests import digest_of, file_sha256
from tasks.core.errors import SettingsError, TooManyRejects
from tasks.core.progress import Receiver, Reporter, nothing
from tasks.core.settings import CONF
from tasks.core.snapshots import FORMAT, InputRef, Provenance, Snapshot, SnapshotWriter
from tasks.core.source_code import source_digest, source_modules
from tasks.core.storage.store import SnapshotStore


class HasDigest(Protocol):
    """An input of a stage: a snapshot, or a set of source files."""

    @property
    def stage(self) -> str: ...

    @property
    def key(self) -> str: ...

    @property
    def digest(self) -> str: ...


Validate = Callable[["Stage", SnapshotWriter], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A stage function and its declaration."""

    name: str
    function: Callable[..., None]
    version: int
    retries: int
    timeout_s: int
    libraries: tuple[str, ...]
    files: tuple[str, ...]
    deterministic: bool
    input_names: tuple[str, ...]
    config: type[BaseModel]
    section: str
    unit: str
    size: Callable[[Snapshot], int]
    reads: Callable[[Any], Iterable[Path]] | None = None
    parts: Callable[[Stage, Any, Any], list[str]] | None = None
    flow: str = "etl-train"

    @property
    def code(self) -> dict[str, str]:
        """Identify the code: its source, declared version, and the libraries and files in conf that decide the output.

        The expectations are included, so a snapshot validated by a laxer suite is not reused under a stricter one.
        """
        suite = f"expectations/{self.name.replace('-', '_')}.yaml"
        digests = {name: file_sha256(CONF / name) for name in (suite, *self.files) if (CONF / name).exists()}
        versions = {name: _version(name) for name in self.libraries}
        return {"source": source_digest(self.function.__module__), "version": str(self.version), **versions, **digests}

    @property
    def modules(self) -> dict[str, str]:
        """Identify each module of the code by 64 bits, so that a changed one can be named."""
        return {name: digest[:16] for name, digest in source_modules(self.function.__module__).items()}


def stage(
    *,
    version: int,
    config: type[BaseModel],
    section: str = "",
    unit: str = "rows",
    size: Callable[[Snapshot], int] = Snapshot.rows,
    libraries: Sequence[str] = ("pyarrow",),
    files: Sequence[str] = (),
    retries: int = 1,
    timeout_s: int = 6 * 3600,
    deterministic: bool = True,
    name: str = "",
    reads: Callable[[Any], Iterable[Path]] | None = None,
    parts: Callable[[Stage, Any, Any], list[str]] | None = None,
    flow: str = "etl-train",
) -> Callable[[Callable[..., None]], Stage]:
    """Declare a stage.

    version: raise it when the output changes although nothing digested does.
    config: the class of its settings; `section`: their name in conf/base.yaml (default: the stage's own).
    unit: what its output is counted in; `size`: counts a snapshot's units.
    libraries, files: distributions, and files in conf/, that decide the output; they are part of the key.
    reads: lists the files that the user's settings name; their contents are part of the key.
    parts: identifies the parts of a source, by (stage, source, config), before the stage runs; for `raymill plan`.
    flow: the flow that runs it.
    """

    def wrap(function: Callable[..., None]) -> Stage:
        *inputs, last, out = inspect.signature(function).parameters
        if (last, out) != ("config", "out"):
            raise TypeError(f"{function.__name__}: a stage takes (inputs..., config, out)")
        called = name or function.__name__.replace("_", "-")
        return Stage(
            name=called,
            function=function,
            version=version,
            retries=retries,
            timeout_s=timeout_s,
            libraries=tuple(libraries),
            files=tuple(files),
            deterministic=deterministic,
            input_names=tuple(inputs),
            config=config,
            section=section or called.replace("-", "_"),
            unit=unit,
            size=size,
            reads=reads,
            parts=parts,
            flow=flow,
        )

    return wrap


@dataclass(frozen=True)
class StageRun:
    """The result of a stage: the snapshot, whether it was reused, and seconds per phase."""

    snapshot: Snapshot
    reused: bool
    seconds: Mapping[str, float]
    validation: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)


def stage_key(stage: Stage, inputs: Sequence[HasDigest | None], config: BaseModel) -> str:
    """Return the hex digest (128 bits) of what decides a stage's output: name, code, config section, inputs' digests.

    An optional input may be None.
    """
    decides = {
        "format": FORMAT,
        "stage": stage.name,
        "code": stage.code,
        "config": config.model_dump(mode="json"),
        "inputs": [i and i.digest for i in inputs],
    }
    if stage.reads:
        decides["read"] = _files_read(stage, config)
    return digest_of(decides)[:32]


def _files_read(stage: Stage, config: BaseModel) -> dict[str, str]:
    try:
        return {file.name: file_sha256(file) for file in sorted(stage.reads(config))} if stage.reads else {}
    except OSError as error:
        raise SettingsError(
            f"cannot be read: {error.strerror}", where=f"{stage.name}: {error.filename}", fix="check its permissions"
        ) from None


def provenance(stage: Stage, inputs: Sequence[HasDigest | None], config: BaseModel) -> Provenance:
    """Return what decides a stage's output, taken apart. An input that is not made yet has an empty digest."""
    return Provenance(
        stage=stage.name,
        inputs=tuple(
            InputRef(name=n, stage=i.stage, key=i.key, digest=i.digest, contents=getattr(i, "contents", {}))
            for n, i in zip(stage.input_names, inputs, strict=True)
            if i is not None
        ),
        config=config.model_dump(mode="json"),
        code=stage.code,
        modules=stage.modules,
        read=_files_read(stage, config),
    )


def run_stage(
    stage: Stage,
    inputs: Sequence[HasDigest | None],
    config: BaseModel,
    store: SnapshotStore,
    *,
    validate: Validate,
    prepare: Callable[[], None] = lambda: None,
    progress: Receiver = nothing,
    waiting: Callable[[], None] = lambda: None,
) -> StageRun:
    """Return the committed snapshot for these inputs; run the stage if there is none.

    One process at a time runs a stage at one key, as its scratch folder belongs to the key; the next one takes the
    snapshot, or goes on from the scratch of one that failed. `waiting` is called if another is at it. `prepare` is
    called only if the stage has to run (it starts Ray). `validate` raises ValidationFailed. `progress` receives the
    stage's calls of `out.progress`, in the stage's thread.
    """
    clock = _Clock()
    key = stage_key(stage, inputs, config)
    if committed := store.find(stage.name, key):
        return _reused(committed, clock)
    with locks.alone(store.lock(stage.name, key), waiting):
        if committed := store.find(stage.name, key):  # of another process, since
            return _reused(committed, clock)
        prepare()
        out = store.open_attempt(stage.name, key)
        seconds = {"prepare": clock.lap()}
        out.reporter = Reporter(stage.name, progress)
        faults.point(stage.name, "before-run")
        try:
            stage.function(*inputs, config=config, out=out)
            out.check_rows()
            _check_rejects(stage, config, out)
            faults.point(stage.name, "after-run")
            seconds["run"] = clock.lap()
            validation = validate(stage, out)
            seconds["validate"] = clock.lap()
            faults.point(stage.name, "after-validate")
            made_from = provenance(stage, inputs, config)
            snapshot = store.commit(
                out,
                **{name: value for name, value in made_from if name not in ("format", "stage")},
                config_digest=digest_of(made_from.config),
                deterministic=stage.deterministic,
                validation=validation,
                seconds=dict(seconds),
                committed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        except BaseException:
            store.discard(out)
            raise
    seconds["commit"] = clock.lap()
    return StageRun(snapshot, reused=False, seconds=seconds, validation=validation, notes=out.notes)


def _reused(committed: Snapshot, clock: _Clock) -> StageRun:
    seconds = {"reuse": clock.lap()}
    return StageRun(committed, reused=True, seconds=seconds, validation=committed.manifest.validation)


def _check_rejects(stage: Stage, config: BaseModel, out: SnapshotWriter) -> None:
    limit = getattr(config, "max_reject_fraction", None)
    rows_in, rejected = out.counts.get("rows_in", 0), out.rows("rejects")
    if limit is not None and rejected > limit * rows_in:
        raise TooManyRejects(
            f"{rejected:,} of {rows_in:,} rows cannot be used ({_reasons(out)}); {limit:.0%} are allowed",
            where=stage.name,
            fix=f"check the dataset profile, or raise {stage.name.replace('-', '_')}.max_reject_fraction",
        )


def _reasons(out: SnapshotWriter) -> str:
    from collections import Counter

    from tasks.core.snapshots import read_tables

    reasons = Counter(read_tables(out.files("rejects"), ["reason"])["reason"].to_pylist())
    return ", ".join(f"{reason}: {n:,}" for reason, n in reasons.most_common(3))


def _version(library: str) -> str:
    """Return the version of a distribution; "" if it is not installed, as one of an extra may be."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        return round(seconds, 4)
