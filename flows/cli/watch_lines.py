"""What `raymill score` prints of the watch over the reviews that it has scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flows.run.warned import line
from tasks.domain.metrics import NAMES


def watch_lines(night: Mapping[str, Any]) -> list[str]:
    """Say a night (`flows.run.watched_nights.Night` as JSON values) in a line or two, then its warnings."""
    found = night["found"]
    lines = [f"watch: {told}" for told in found.get("told", ())]
    if found.get("expected_loss") is not None:
        name = NAMES.get(str(found["metric"]), str(found["metric"]))
        said = f"watch: {name} {found['expected_loss']:.4f} expected"
        if found.get("realised_loss") is not None:
            said += f", {found['realised_loss']:.4f} realised on the {found['realised_rows']:,} with stars"
        lines.append(f"{said}; {found['reference_loss']:.4f} on the model's test slice")
    return [*lines, *(f"warning: {line({'stage': 'watch', **warned})}" for warned in found.get("warnings", ()))]
