"""The report's templates, and how they write numbers, times and links."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.core.settings import CONF

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str) -> Template:
    """Return a template of conf/, which escapes all that is put into it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(CONF),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"whole": _whole, "decimal": _decimal, "percent": _percent, "value": _value, "href": _href}
    environment.filters["moment"] = _moment
    return environment.get_template(name)


def _whole(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _decimal(number: float | None, digits: int = 3) -> str:
    return "–" if number is None or number != number else f"{number:,.{digits}f}"


def _percent(part: float | None, whole: float | None, digits: int = 1) -> str:
    return "–" if part is None or not whole else f"{part / whole:.{digits}%}"


def _value(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _moment(iso: str | None) -> str:
    """Format an ISO time to the minute."""
    return "–" if iso is None else f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M}"


def _href(link: Any) -> str:
    """Return the link if it is safe to follow, else "": settings must not inject javascript:."""
    return str(link) if urlsplit(str(link)).scheme in ("", "http", "https", "file") else ""
