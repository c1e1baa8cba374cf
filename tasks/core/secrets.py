"""The one masker: what must not be shown is replaced by ***, in settings, logs, links, records and error messages.

A secret is one of four things: the user info of a URL, the value of a query key or of an assignment that is named like
a secret, the value of an environment variable that is named like one, or a value that this process was told of
(`remember`: the secret settings). A user name before a password stays, since it tells two databases apart; a user name
alone may be a token and goes. Masking a masked text changes nothing.
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
SHORTEST_SECRET = 6  # characters; to mask a shorter one wherever it occurs would mask words
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
    return _masked(text, _known())


def _masked(text: str, known: re.Pattern[str] | None) -> str:
    text = known.sub(MASK, text) if known else text
    text = _USER_INFO.sub(lambda found: f"://{found['user']}:{MASK}@" if found["user"] else f"://{MASK}@", text)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\1{MASK}", text)
    return text


def masked_within(value: Any) -> Any:
    """Return a value of JSON with every text in it masked; the names of its members stay."""
    known = _known()

    def within(part: Any) -> Any:
        if isinstance(part, str):
            return _masked(part, known)
        if isinstance(part, Mapping):
            return {name: within(member) for name, member in part.items()}
        return [within(member) for member in part] if isinstance(part, list | tuple) else part

    return within(value)


def address(url: str) -> str:
    """Return a URL to follow: without user info, other secrets masked."""
    return masked(_USER_INFO.sub("://", url))


def remember(*secrets: str, settings: BaseModel | None = None) -> None:
    """Mask these values, and the secret settings, wherever they turn up in this process from now on."""
    _TOLD.update(secrets, _secret_settings(settings) if settings else ())


def forget() -> None:
    """Forget what `remember` was told."""
    _TOLD.clear()


def shown(section: S) -> S:
    """Return a copy of settings for others to see: texts masked, secret settings left out where they have no place."""
    changed: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            changed[name] = shown(value)
        elif isinstance(value, SecretStr):
            changed[name] = None
        else:
            changed[name] = masked_within(value)
    return section.model_copy(update=changed)


def mask_error(error: BaseException) -> None:
    """Mask the texts that an error was raised with, for whoever prints or keeps it."""
    error.args = tuple(masked(a) if isinstance(a, str) else a for a in error.args)


def _known() -> re.Pattern[str] | None:
    """Return what finds the values that this process was told of, and those of the environment."""
    return _any_of(frozenset(_TOLD.union(v for name, v in os.environ.items() if SECRET_VARIABLE.search(name))))


@lru_cache(maxsize=8)
def _any_of(secrets: frozenset[str]) -> re.Pattern[str] | None:
    """Return what finds these secrets in any of the forms that they are written in, the longest first."""
    forms = {form for secret in secrets for part in _parts(secret) for form in _written(part)}
    known = sorted((form for form in forms if len(form) >= SHORTEST_SECRET), key=lambda f: (-len(f), f))
    return re.compile("|".join(map(re.escape, known))) if known else None


def _parts(secret: str) -> list[str]:
    """Of a URL the password, or the path where it has none; of user:password, the password may turn up alone."""
    if "://" not in secret:
        return [secret, secret.partition(":")[2]]
    try:
        url = urlsplit(secret)
        return [url.password] if url.password else [secret, secret.partition(url.netloc)[2]]
    except ValueError:
        return [secret]


def _written(secret: str) -> set[str]:
    """Return the forms of a secret: as it is, in a URL, in JSON."""
    texts = {secret, unquote(secret)}
    escaped = {json.dumps(text, ensure_ascii=ascii)[1:-1] for text in texts for ascii in (True, False)}
    return texts | escaped | {quote(text, safe=kept) for text in texts for kept in ("", "/")}


def _secret_settings(section: BaseModel) -> list[str]:
    found: list[str] = []
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
        elif isinstance(value, BaseModel):
            found += _secret_settings(value)
    return found
