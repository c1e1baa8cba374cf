"""Ask Prefect's server over HTTP, without importing Prefect, which takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core.errors import TransientError

TIMEOUT_S = 10.0


def ask(api: str, authorization: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Send GET, or POST with a body, and return the answer's JSON.

    authorization: the header's value; "" for a server without a password. Raises TransientError if the server does not
    answer, or refuses the password.
    """
    import httpx

    headers = {"Authorization": authorization} if authorization else {}
    method = "GET" if body is None else "POST"
    try:
        answer = httpx.request(method, f"{api}/{path}", json=body, headers=headers, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return answer.json()
    except (httpx.HTTPError, ValueError) as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            raise TransientError(
                f"Prefect's server refuses the password, or lacks one ({error.response.status_code})",
                where=api,
                fix="PREFECT_API_AUTH_STRING=user:password, as the server's services.auth; PREFECT_API_KEY for a key",
            ) from None
        raise TransientError(f"Prefect's server does not answer: {type(error).__name__}", where=api) from None
