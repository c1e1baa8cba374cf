"""Databases of MLflow for tests: to make the tables takes seconds, so they are made once and copied."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.engines import tracking


def new_database(path: Path) -> str:
    """Put an empty database at `path`; returns its address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty())
    return f"sqlite:///{path}"


@cache
def _empty() -> bytes:
    with TemporaryDirectory(prefix="raymill-mlflow-") as folder:
        path = Path(folder) / "mlflow.db"
        tracking.connect(f"sqlite:///{path}").search_experiments(max_results=1)
        return path.read_bytes()
