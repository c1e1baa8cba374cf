"""An empty MLflow database: to make its tables takes seconds, so they are made once and copied."""

from __future__ import annotations

from functools import cache
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory


def new_database(path: Path) -> str:
    """Put an empty database at `path`; return its address."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty())
    return f"sqlite:///{path}"


@cache
def _empty() -> bytes:
    with TemporaryDirectory(prefix="raymill-mlflow-") as folder:
        path = Path(folder) / "mlflow.db"
        # In a process of its own: a connection has threads, and this process may be forked.
        process = get_context("spawn").Process(target=_make, args=(str(path),))
        process.start()
        process.join()
        return path.read_bytes()


def _make(path: str) -> None:
    from tasks.engines import tracking

    tracking.connect(f"sqlite:///{path}").search_experiments(max_results=1)
