"""The database of a study: opened at a URL, kept from failing this machine's trials, and its errors in our terms."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna

from tasks.core.errors import RunError, SettingsError, TransientError
from tasks.core.secrets import masked

HEARTBEAT_S, GRACE_S = 20, 120  # a trial without a heartbeat for GRACE_S is considered lost


def open_storage(url: str, shared: bool) -> Any:
    """Open Optuna's tables at this URL, created if missing. Raises SettingsError or RunError, password masked."""
    from sqlalchemy import event
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    beats: dict[str, Any] = {"heartbeat_interval": HEARTBEAT_S, "grace_period": GRACE_S} if shared else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            storage = optuna.storages.RDBStorage(with_driver(url), skip_table_creation=False, **beats)
        except ImportError as error:
            reason = f"{error} (no driver for this database)"
            raise SettingsError(
                _hidden(reason, url),
                where=f"tune.storage={url}",
                fix='for PostgreSQL: pip install --constraint constraints.txt --editable ".[postgres]"',
            ) from None
        except (ValueError, ArgumentError) as error:
            raise SettingsError(
                _hidden(error, url), where=f"tune.storage={url}", fix="for example postgresql://user@host/name"
            ) from None
        except (SQLAlchemyError, OSError, RuntimeError) as error:
            raise RunError(
                f"the study cannot be opened: {_hidden(error, url)}",
                where=url,
                fix="check tune.storage, and that the database is up",
            ) from None
    if url.startswith("sqlite"):
        # A write-ahead log, synced now and then: if the machine crashes, the last trials may be lost, but not the file.
        def quick(connection: Any, _record: Any) -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")

        storage.engine.dispose()
        event.listen(storage.engine, "connect", quick)
    return storage


def with_driver(url: str) -> str:
    """Return a PostgreSQL URL that names no driver with psycopg 3, which we install; other URLs unchanged.

    SQLAlchemy's own default is psycopg2. It does not know `postgres://`, which other tools write.
    """
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Raise TransientError if the database fails in the block. The trials that have ended stay in it."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        raise TransientError(
            f"the database of the study failed: {_hidden(error.__cause__ or error, url)}",
            where=url,
            fix="check that it is up, and run again: the search continues from the trials that have ended",
        ) from None


@contextmanager
def beating(storage: Any, live: Mapping[str, optuna.Trial]) -> Iterator[None]:
    """Send heartbeats of the running trials while the block runs, so that other machines do not fail them."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_S):
            for trial in list(live.values()):
                try:
                    storage.record_heartbeat(trial._trial_id)
                except Exception:  # the database is unreachable: the search's own next request raises
                    break

    thread = threading.Thread(target=beat, name="study-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _hidden(error: object, url: str) -> str:
    return masked(str(error).strip().splitlines()[0].replace(url, masked(url)))
