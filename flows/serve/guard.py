"""What every request passes, as ASGI: the token, the limit of the body, and the counters."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import HTTPException

from flows.serve.measures import Measures

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
GUARDED = ("/predict", "/metrics")  # the others tell nothing about reviews
TOO_LARGE = 413


def problem(kind: str, message: str, *where: str | int) -> list[dict[str, Any]]:
    """Return the `detail` of an answer that is an error, in the form of `reviews.Problem`."""
    return [{"type": kind, "loc": list(where), "msg": message}]


class Guard:
    """token: that clients must show to reach GUARDED; limit: bytes of a body."""

    def __init__(self, app: Any, measures: Measures, token: str | None, limit: int) -> None:
        self.app, self.measures, self.limit = app, measures, limit
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, path = time.perf_counter(), scope["path"]
        headers = dict(scope["headers"])
        answered = False

        def count(status: int) -> None:
            nonlocal answered
            answered = True
            known = path if path in (*GUARDED, "/healthz", "/docs", "/openapi.json") else "other"
            self.measures.requests.labels(known, status).inc()
            if path == "/predict":
                self.measures.seconds.observe(time.perf_counter() - began)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        if self.expected and path in GUARDED and not self._is_known(headers.get(b"authorization", b"")):
            detail = problem("token", "a bearer token is needed", "header", "Authorization")
            await _answer(told, 401, detail, (b"www-authenticate", b"Bearer"))
        elif int(headers.get(b"content-length", b"0") or 0) > self.limit:
            await _answer(told, TOO_LARGE, self._too_large())
        else:
            try:
                await self.app(scope, self._bounded(receive), told)
            except Exception:  # Starlette answers it with 500 outside of all middleware
                if not answered:
                    count(500)
                raise

    def _is_known(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self.expected or b"")

    def _too_large(self) -> list[dict[str, Any]]:
        return problem("too_large", f"the body has more than {self.limit:,} bytes", "body")

    def _bounded(self, receive: Receive) -> Receive:
        """Count the bytes of a body that does not tell its length."""
        seen = 0

        async def received() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise HTTPException(TOO_LARGE, self._too_large())
            return message

        return received


async def _answer(send: Send, status: int, detail: list[dict[str, Any]], *headers: tuple[bytes, bytes]) -> None:
    body = json.dumps({"detail": detail}).encode()
    given = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": given})
    await send({"type": "http.response.body", "body": body})
