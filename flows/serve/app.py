"""The web application: predictions, health, metrics and a page of the interface. The same in Ray Serve and without."""

# No postponed annotations: FastAPI reads those of `make_app`, which name its settings.
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Body as InBody
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as Refusal

from flows.serve.docs_page import docs_page
from flows.serve.guard import TOO_LARGE, Guard, problem
from flows.serve.reviews import Asked, Body, Prediction, Problems
from flows.serve.watch import Watch
from tasks.core.sections import ServeConfig

Predict = Callable[[Asked], Awaitable[list[Prediction]]]
TELLS = {413: "Too large a body, or too many reviews", 422: "A field is missing or wrong: `loc` names it"}
TELLS |= {401: "No valid token", 503: "Too many reviews wait: try again in a second"}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": Problems, "description": text} for status, text in sorted(TELLS.items())
}
LOG = logging.getLogger("raymill.serve")


def make_app(config: ServeConfig, watch: Watch, predict: Predict) -> FastAPI:
    """predict: of one request, in a batch with others."""
    app = FastAPI(
        title="Raymill",
        version="1",
        summary="Predictions of raw reviews by the champion of the registry",
        docs_url=None,  # FastAPI's page loads scripts from elsewhere
        redoc_url=None,
    )
    served, measures = watch.served, watch.served.measures
    waiting = 0

    @app.post("/predict", responses=RESPONSES, summary="Predict one review, or a list of them")
    async def post_predict(
        body: Annotated[Body, InBody()],
        reasons: Annotated[
            int, Query(ge=0, le=config.max_reasons, description="How many of the largest contributions to give")
        ] = 0,
    ) -> Prediction | list[Prediction]:
        nonlocal waiting
        reviews = body if isinstance(body, list) else [body]
        _check(reviews)
        if waiting + len(reviews) > max(config.max_waiting, len(reviews)):
            detail = problem("too_many_waiting", f"{waiting:,} reviews wait already", "body")
            raise HTTPException(503, detail, {"Retry-After": "1"})
        waiting += len(reviews)
        measures.waiting.set(waiting)
        try:
            found = await predict(Asked(reviews, reasons)) if reviews else []
        finally:
            waiting -= len(reviews)
            measures.waiting.set(waiting)
        if isinstance(body, list):
            return found
        if found[0].problem is not None:
            raise HTTPException(422, problem("not_scorable", found[0].problem, "body"))
        return found[0]

    def _check(reviews: list[Any]) -> None:
        if len(reviews) > config.max_reviews:
            message = f"{len(reviews):,} reviews, and no more than {config.max_reviews:,} may be in a request"
            raise HTTPException(TOO_LARGE, problem("too_many_reviews", message, "body"))
        if served.champion.needs_stars:
            for i, review in enumerate(reviews):
                if review.rating is None:
                    raise HTTPException(422, problem("missing", "this model needs the stars", "body", i, "rating"))

    @app.get("/healthz", summary="What is served, and whether the registry answers")
    async def get_health() -> dict[str, Any]:
        return health(watch)

    @app.get("/metrics", response_class=PlainTextResponse, summary="Numbers for Prometheus")
    async def get_metrics() -> Response:
        return Response(measures.page(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def get_docs() -> HTMLResponse:
        return HTMLResponse(
            docs_page(app.openapi()),
            headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(Exception, _failed)
    token = config.token.get_secret_value() if config.token else None
    app.add_middleware(Guard, measures=measures, token=token, limit=config.max_body_kb << 10)
    return app


def health(watch: Watch) -> dict[str, Any]:
    """Return what is served and what is wrong; `status` is ok as long as reviews are predicted."""
    champion, shadow = watch.served.champion, watch.served.shadow
    asked = datetime.fromtimestamp(watch.asked_at, UTC).isoformat(timespec="seconds") if watch.asked_at else None
    return {
        "status": "ok",
        "model": champion.name,
        "version": champion.version,
        "since": datetime.fromtimestamp(champion.since, UTC).isoformat(timespec="seconds"),
        "registry": {"answered": asked, "problem": watch.problem or None},
        "shadow": shadow and {"version": shadow.model.version, "problem": shadow.last_problem or None},
    }


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    # Without the input: it may be long, private, or no text that JSON can hold.
    assert isinstance(error, RequestValidationError)
    detail = [{"type": e["type"], "loc": [*_place(e["loc"])], "msg": e["msg"]} for e in error.errors()[:100]]
    return JSONResponse({"detail": detail}, 422)


def _place(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Leave out the names of the two forms of a body."""
    return (*loc[:1], *loc[2:]) if loc[1:2] in (("review",), ("reviews",)) else loc


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    detail: Any = error.detail
    if isinstance(detail, str):  # Starlette's own: 404, 405
        detail = problem("http", detail)
    return JSONResponse({"detail": detail}, error.status_code, headers=error.headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    LOG.error("a request failed", exc_info=error)
    return JSONResponse({"detail": problem("internal", f"the server failed: {type(error).__name__}")}, 500)
