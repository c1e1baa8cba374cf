"""A PostgreSQL server of its own for tests, if the machine has the programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flows.drill.postgres import Postgres, programs
from flows.drill.postgres import postgres as running

__all__ = ["Postgres", "postgres"]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server that runs while the block does. Skips the test where there are no programs."""
    if (where := programs()) is None:
        pytest.skip("no PostgreSQL on this machine (Debian: apt install postgresql)")
    with running(where) as server:
        yield server
