"""Stage names for `--until`: the stages of `etl-train`, and `register`, which makes no snapshot."""

from __future__ import annotations

from functools import cache

from tasks.core.errors import SettingsError
from tasks.stages import declared_stages


@cache
def stage_names() -> frozenset[str]:
    """Return the names of all stages."""
    return frozenset(name for name, stage in declared_stages().items() if stage.flow == "etl-train") | {"register"}


def check_stage_name(name: str | None) -> None:
    """Raise SettingsError unless `name` is a stage or None."""
    if name is not None and name not in stage_names():
        raise SettingsError(f"no stage {name!r}", where="--until", fix=f"stages are {', '.join(sorted(stage_names()))}")
