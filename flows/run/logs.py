"""The log of a run: secrets masked in every record; with `logging.json`, one JSON object per line on standard error.

    {"time": "2026-03-29T02:30:04.113Z", "level": "INFO", "logger": "prefect.task_runs", "message": "…",
     "run_id": "20260329-023003-a1b2c3", "flow_run_id": "…", "stage": "clean"}

Unknown fields are null; a traceback is one text, under "error". Lines that Prefect writes before a worker's flow run
begins have Prefect's own format, and errors before `raymill run` begins are printed as text.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, TextIO

from flows.run.names import stage_names
from tasks.core import secrets
from tasks.core.secrets import masked
from tasks.settings import Settings

OURS = ("raymill", "flows", "tasks", "prefect.flow_runs", "prefect.task_runs", "prefect.raymill")  # logged from INFO on
_ABOUT: ContextVar[Mapping[str, str] | None] = ContextVar("about", default=None)
_UNDO: list[Callable[[], None]] = []


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Add fields (run_id, flow_run_id, stage) to every record logged in this block and context."""
    token = _ABOUT.set({**(_ABOUT.get() or {}), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(token)


class MaskFilter(logging.Filter):
    """Masks the message and the traceback of every record, for this handler and those after it."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg, record.args = masked(record.getMessage()), ()
            if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            if record.exc_text:
                record.exc_text = masked(record.exc_text)
        except Exception:  # arguments that do not fit the message: logging itself reports such an error
            record.msg, record.args = masked(str(record.msg)), ()
        return True


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        known = _ABOUT.get() or {}
        task = getattr(record, "task_name", None)
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "run_id": known.get("run_id"),
            "flow_run_id": getattr(record, "flow_run_id", None) or known.get("flow_run_id"),
            "stage": known.get("stage") or (task if task in stage_names() else None),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            entry["error"] = record.exc_text
        return json.dumps(entry, ensure_ascii=False)


class StandardError(logging.StreamHandler[TextIO]):
    """Writes to the current standard error, even after it was replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def set_up(settings: Settings) -> None:
    """Mask secrets in everything this process logs from now on; log as JSON lines if the settings say so.

    A second call undoes the first.
    """
    take_down()
    secrets.remember(settings=settings)
    mask = MaskFilter()
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    if settings.logging.as_json:
        _as_json(loggers)
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.addFilter(mask)
        _UNDO.append(partial(handler.removeFilter, mask))


def tell(error: Exception) -> bool:
    """Log the error that ends a command if the log is JSON; return False if it is not, so that the caller prints it."""
    as_json = any(isinstance(handler, StandardError) for handler in logging.root.handlers)
    if as_json:
        logging.getLogger("raymill").error("%s", error)
    return as_json


def take_down() -> None:
    """Restore logging to its state before `set_up`."""
    while _UNDO:
        _UNDO.pop()()


def _as_json(loggers: Iterable[logging.Logger]) -> None:
    ours = StandardError()
    ours.setFormatter(JsonLines())
    for logger in loggers:
        others = [handler for handler in logger.handlers if _is_console(handler)]
        if others or logger is logging.root:
            before = list(logger.handlers)
            logger.handlers = [handler for handler in before if handler not in others] + [ours]
            _UNDO.append(partial(setattr, logger, "handlers", before))
        if others and logger.propagate and logger is not logging.root:
            logger.handlers.remove(ours)  # the root's handler gets the record, too
    for name in OURS:
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() > logging.INFO:
            _UNDO.append(partial(logger.setLevel, logger.level))
            logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    _UNDO.append(lambda: logging.captureWarnings(False))


def _is_console(handler: logging.Handler) -> bool:
    stream = getattr(getattr(handler, "console", None), "file", getattr(handler, "stream", None))
    return stream in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
