"""Mask secrets as *** in settings, logs, links, records and error messages.

A secret is the user info of a URL, the value of a query key or of an assignment with a secret's name, the value of an
environment variable with such a name, or a value passed to `remember` (the secret settings). A user name before a
password stays, since it tells two databases apart; a user name alone may be a token and is masked. Masking a masked
text changes nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, SecretStr

S = TypeVar("S", bound=BaseModel)

MASK = "***"
SHORTEST_SECRET = 6  # characters; masking shorter ones would mask ordinary words
SECRET_VARIABLE = re.compile(r"(?i)(SECRET|PASSWORD|PASSWD|TOKEN|AUTH_STRING|API_?KEY|ACCESS_KEY(_ID)?)$")

# A password may hold "/", "@" and ":": it ends at the last "@" before a blank.
_USER_INFO = re.compile(r"://(?:(?P<user>[^/\s:@]+):(?=[^\s@])[^\s]*|[^/\s:@]*:[^\s]*|[^/\s:]*)@")
_NAMED = (
    r"[\w.-]*(?:secret(?:_?key)?|private_?key|password|passwd|api_?key|access_?key|session_?token|auth_?token|access_?token|authorization"
    r"|x-(?:amz|goog)-(?:signature|credential|security-token))"
)
_PATTERNS = (
    # In a URL's query, short names are enough: sig (Azure), Signature and AWSAccessKeyId (S3), key, token, code.
    re.compile(
        r"(?i)([?&;](?:[\w.-]*(?:sig|signature|credential|token|secret(?:_?key)?|password|passwd|pwd|api_?key|access_?key(?:_?id)?"
        r"|auth)|key|code)=)[^&#\s\"'<>]+"
    ),
    re.compile(r"()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # an AWS access key
    re.compile(rf"(?i)\b({_NAMED}[\"']?\s*[=:]\s*[\"']?)(?:(?:bearer|basic)\s+)?[^\s\"',;&}}]+"),
)

_TOLD: set[str] = set()


def masked(text: str) -> str:
    """Return the text without its secrets: safe to print and to record."""
    return _masked(text, _remembered())


def _masked(text: str, remembered: re.Pattern[str] | None) -> str:
    text = remembered.sub(MASK, text) if remembered else text
    text = _USER_INFO.sub(lambda match: f"://{match['user']}:{MASK}@" if match["user"] else f"://{MASK}@", text)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\1{MASK}", text)
    return text


def masked_within(value: Any) -> Any:
    """Return a value of mappings, lists and tuples with every text in it masked, except the names of members."""
    remembered = _remembered()

    def within(part: Any) -> Any:
        if isinstance(part, str):
            return _masked(part, remembered)
        if isinstance(part, Mapping):
            return {name: within(member) for name, member in part.items()}
        if isinstance(part, tuple):
            return tuple(within(member) for member in part)
        return [within(member) for member in part] if isinstance(part, list) else part

    return within(value)


def address(url: str) -> str:
    """Return a URL that can be opened: without user info, other secrets masked."""
    return masked(_USER_INFO.sub("://", url))


def remember(*secrets: str, settings: BaseModel | None = None) -> None:
    """Mask these values, and the secret settings, everywhere in this process from now on."""
    _TOLD.update(secrets, _secret_settings(settings) if settings else ())


def forget() -> None:
    """Forget the secrets passed to `remember`."""
    _TOLD.clear()


def shown(section: S) -> S:
    """Return a copy of settings that is safe to show: texts masked, secret settings removed and not set."""
    changed: dict[str, Any] = {}
    removed = set()
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            changed[name] = shown(value)
        elif isinstance(value, SecretStr):
            changed[name] = None
            removed.add(name)
        else:
            changed[name] = masked_within(value)
    copy = section.model_copy(update=changed)
    copy.model_fields_set.difference_update(removed)
    return copy


def mask_error(error: BaseException) -> None:
    """Mask the texts of an error, in place, before it is printed or stored."""
    error.args = tuple(masked(a) if isinstance(a, str) else a for a in error.args)


def _remembered() -> re.Pattern[str] | None:
    """Return the pattern of the remembered secrets and those of the environment."""
    return _any_of(frozenset(_TOLD.union(v for name, v in os.environ.items() if SECRET_VARIABLE.search(name))))


@lru_cache(maxsize=8)
def _any_of(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """Return a pattern that matches these secrets in any of their written forms, the longest first."""
    forms = {form for secret in secrets for part in _parts(secret) for form in _written(part)}
    long = sorted((form for form in forms if len(form) >= SHORTEST_SECRET), key=lambda f: (-len(f), f))
    return re.compile("|".join(map(re.escape, long))) if long else None


def _parts(secret: str) -> list[str]:
    """List the parts that may occur alone: a URL's password, or its path without one; the password of user:password."""
    if "://" not in secret:
        return [secret, secret.partition(":")[2]]
    try:
        url = urlsplit(secret)
        return [url.password] if url.password else [secret, secret.partition(url.netloc)[2]]
    except ValueError:
        return [secret]


def _written(secret: str) -> set[str]:
    """Return the written forms of a secret: plain, in a URL, in JSON."""
    texts = {secret, unquote(secret)}
    escaped = {json.dumps(text, ensure_ascii=ascii)[1:-1] for text in texts for ascii in (True, False)}
    return texts | escaped | {quote(text, safe=kept) for text in texts for kept in ("", "/")}


def _secret_settings(section: BaseModel) -> list[str]:
    secrets: list[str] = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, SecretStr):
            secrets.append(value.get_secret_value())
        elif isinstance(value, BaseModel):
            secrets += _secret_settings(value)
    return secrets
