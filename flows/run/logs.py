"""The log of a run: secrets masked in every record, and with `logging.json` one JSON object a line on standard error.

    {"time": "2026-03-29T02:30:04.113Z", "level": "INFO", "logger": "prefect.task_runs", "message": "…",
     "run_id": "20260329-023003-a1b2c3", "flow_run_id": "…", "stage": "clean"}

What is not known of a record is null; a traceback is one text, under "error". The lines that Prefect writes before a
worker's flow run has begun are Prefect's own, and what is wrong before `raymill run` has begun is told to people.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from flows.run.names import stage_names
from tasks.settings import Settings

OURS = ("raymill", "flows", "tasks", "prefect.flow_runs", "prefect.task_runs", "prefect.raymill")  # from INFO on
SHORTEST_SECRET = 6  # characters; to mask a shorter one wherever it occurs would mask words
SECRET_VARIABLE = re.compile(r"(SECRET|PASSWORD|PASSWD|TOKEN|AUTH_STRING|API_KEY|ACCESS_KEY(_ID)?)$")
PATTERNS = (
    (re.compile(r"(://[^/\s:@]*):[^\s]*@"), r"\1:***@"),  # a URL's password
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),  # an AWS access key
    (
        re.compile(
            r"(?i)\b([\w-]*(?:secret|password|passwd|api_?key|access_?key|session_?token|auth_?token|authorization"
            r"|x-amz-(?:signature|credential|security-token))[\"']?\s*[=:]\s*[\"']?)((?:bearer|basic)\s+)?[^\s\"',;&}]+"
        ),
        r"\1***",
    ),
)

_ABOUT: ContextVar[Mapping[str, str] | None] = ContextVar("about", default=None)
_UNDO: list[Callable[[], None]] = []


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Add fields (run_id, flow_run_id, stage) to every record that is logged in the block, in this context."""
    token = _ABOUT.set({**(_ABOUT.get() or {}), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(token)


class Masker:
    """Replaces secrets in a text: those that are known, and what looks like one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    @classmethod
    def of(cls, settings: Settings | None, *more: str) -> Masker:
        """Knows the secret settings, what the environment's variables for secrets hold, and what is given beside."""
        found = [*more, *(value for name, value in os.environ.items() if SECRET_VARIABLE.search(name))]
        found += _secrets_in(settings) if settings else []
        return cls(part for secret in found for part in _worth_masking(secret))

    def __call__(self, text: str) -> str:
        text = self._known.sub("***", text) if self._known else text
        for pattern, mask in PATTERNS:
            text = pattern.sub(mask, text)
        return text


def _worth_masking(secret: str) -> list[str]:
    """Of a URL the password, or the path where it has none; of user:password, the password may turn up alone."""
    if "://" not in secret:
        return [secret, secret.partition(":")[2]]
    try:
        url = urlsplit(secret)
        return [url.password, unquote(url.password)] if url.password else [secret, secret.partition(url.netloc)[2]]
    except ValueError:
        return [secret]


def _secrets_in(section: BaseModel) -> list[str]:
    found: list[str] = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
        elif isinstance(value, BaseModel):
            found += _secrets_in(value)
    return found


class MaskFilter(logging.Filter):
    """Masks the message and the traceback of every record that passes, for this handler and those after it."""

    def __init__(self, mask: Masker) -> None:
        super().__init__()
        self.mask = mask

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            record.msg, record.args = self.mask(record.getMessage()), ()
            if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            if record.exc_text:
                record.exc_text = self.mask(record.exc_text)
        except Exception:  # arguments that do not fit their message: logging itself says so, and to nobody else
            record.msg, record.args = self.mask(str(record.msg)), ()
        return True


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

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
    """Writes to what standard error is at the time."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def set_up(settings: Settings) -> None:
    """Mask secrets in all that is logged from here on in this process; log as JSON lines if the settings say so.

    Called again, it takes back what it did before.
    """
    take_down()
    mask = MaskFilter(Masker.of(settings))
    loggers = [logging.root, *(x for x in logging.root.manager.loggerDict.values() if isinstance(x, logging.Logger))]
    if settings.logging.as_json:
        _as_json(loggers)
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.addFilter(mask)
        _UNDO.append(lambda handler=handler: handler.removeFilter(mask))


def tell(error: Exception) -> bool:
    """Log the error that ends a command, where the log is JSON: False where it is not, and people are to be told."""
    as_json = any(isinstance(handler, StandardError) for handler in logging.root.handlers)
    if as_json:
        logging.getLogger("raymill").error("%s", error)
    return as_json


def take_down() -> None:
    """Leave logging as it was before `set_up`."""
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
            _UNDO.append(lambda logger=logger, before=before: setattr(logger, "handlers", before))
        if others and logger.propagate and logger is not logging.root:
            logger.handlers.remove(ours)  # the root's handler gets the record, too
    for name in OURS:
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() > logging.INFO:
            _UNDO.append(lambda logger=logger, level=logger.level: logger.setLevel(level))
            logger.setLevel(logging.INFO)
    logging.captureWarnings(True)
    _UNDO.append(lambda: logging.captureWarnings(False))


def _is_console(handler: logging.Handler) -> bool:
    stream = getattr(getattr(handler, "console", None), "file", getattr(handler, "stream", None))
    return stream in (sys.stderr, sys.stdout, sys.__stderr__, sys.__stdout__)
