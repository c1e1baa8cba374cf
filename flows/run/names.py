"""The stages of `etl-train` by name, in order."""

from __future__ import annotations

from tasks.core.errors import SettingsError

STAGE_NAMES = (
    "ingest", "ingest-items", "items", "clean", "describe", "near-duplicates", "count-words", "tokenize",
    "pack-tokens", "language-model", "embeddings", "features", "split",
    "train", "tune", "refit", "evaluate", "register", "report",
)  # fmt: skip


def check_stage_name(name: str | None) -> None:
    """Raise SettingsError unless this is a stage, or None."""
    if name is not None and name not in STAGE_NAMES:
        raise SettingsError(f"no stage {name!r}", where="--until", fix=f"stages are {', '.join(STAGE_NAMES)}")
