"""Read run records, ROOT/runs/RUN.json: one that a power cut left empty or half is passed over with a warning."""

from __future__ import annotations

import json
import logging
from typing import Any

_LOG = logging.getLogger(__name__)


def parsed(name: str, content: bytes) -> dict[str, Any] | None:
    """Return a record as JSON values; None, with a warning that names it, if it is not whole."""
    problem = "it is empty"
    if content.strip(b"\0 \n"):
        try:
            record = json.loads(content)
            if isinstance(record, dict) and all("stage" in row for row in record.get("stages", ())):
                return record
            problem = "it is no run's record"
        except (ValueError, TypeError) as error:
            problem = str(error)
    _LOG.warning(
        "%s is not whole and is passed over (%s), as a power cut leaves it: remove the file; "
        "gc may remove that run's snapshots, and a later run makes them again",
        name,
        problem,
    )
    return None
