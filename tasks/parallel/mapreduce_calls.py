"""Calls to the actors of MapReduce: a reducer's address, and the outcome of a call whose actor may have died."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.core.errors import TransientError
from tasks.engines.cluster import gather, is_lost

LOST = object()  # the outcome of a call whose actor died


@dataclass(frozen=True)
class Owner:
    """A reducer, as the mappers address it. A replacement has a new id."""

    id: int
    actor: Any
    partitions: tuple[int, ...]


def outcome(call: Any) -> Any:
    """Return the result of a call to an actor, or LOST if the actor died. The call's own errors are raised."""
    try:
        return gather([call])[0]
    except TransientError as error:
        cause = error.__cause__
        if cause is None or not is_lost(cause):
            raise  # raised by the function itself
        return LOST
