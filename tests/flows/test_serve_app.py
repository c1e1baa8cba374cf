"""The web application of `raymill serve`, in this process: what a client sends, gets and is refused."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import uvicorn
from fastapi.testclient import TestClient

from flows.cli.serve import check_access
from flows.serve.app import make_app
from flows.serve.batches import Batches
from flows.serve.reviews import Asked, Prediction, Review, table
from flows.serve.watch import Watch
from tasks.core.errors import SettingsError
from tasks.settings import load_settings
from tasks.stages.package.raw_reviews import canonical
from tests.support.browser import CHROMIUM, text_of
from tests.support.served_models import NAME, Shelf, config, request, reviews, watched

TOKEN = "a token of a test"


def app_of(watch: Watch) -> Any:
    return make_app(watch.config, watch, Batches(watch.served.predict, watch.config.batch_reviews))


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return watched(Shelf(champion="1"), tmp_path, max_reviews=20, max_body_kb=64)


@pytest.fixture
def client(watch: Watch) -> Iterator[TestClient]:
    with TestClient(app_of(watch), raise_server_exceptions=False) as given:
        yield given


def problems(answer: httpx.Response) -> list[tuple[str, list[Any]]]:
    return [(one["type"], one["loc"]) for one in answer.json()["detail"]]


def test_predictions_are_those_of_the_package(client: TestClient, watch: Watch) -> None:
    known = reviews(12, seed=3)
    sent = known.select("user_id", "item_id", "title", "text", "timestamp", "verified", "category", "review_id")
    body = sent.with_columns(pl.col("timestamp").dt.epoch("ms")).to_dicts()
    answer = client.post("/predict", json=body)
    right = watch.served.champion.scorer.model.predict(known)
    assert answer.status_code == 200
    assert np.array_equal(np.float32([row["prediction"] for row in answer.json()]), right)
    assert [row["review_id"] for row in answer.json()] == known["review_id"].to_list()
    assert {row["model_version"] for row in answer.json()} == {"1"}
    one = client.post("/predict", json=body[0]).json()
    assert one == answer.json()[0]


@pytest.mark.parametrize(
    "moment", ["2015-08-31", "2015-08-31T10:00:00", "2015-08-31 10:00:00.123456", "2015-08-31T10:00:00+02:00"]
)
def test_a_time_means_what_it_means_to_raymill_score(moment: str, watch: Watch) -> None:
    about = watch.served.champion.scorer.model.about
    found = table([Review(**request(timestamp=moment))])["timestamp"]
    assert found.to_pylist() == canonical([request(timestamp=moment)], about)["timestamp"].to_list()


@pytest.mark.parametrize("name", ["A3", " A3\t", "12.0", '="0012"', "\ufeffA3", "x.0"])
@pytest.mark.parametrize("category", ["Toys", " Toys ", "", "  ", None])
def test_names_mean_what_they_mean_to_raymill_score(name: str, category: str | None, watch: Watch) -> None:
    given = request(user_id=name, item_id=name, category=category)
    found, right = table([Review(**given)]), canonical([given], watch.served.champion.scorer.model.about)
    for column in ("user_id", "item_id", "category"):
        assert found[column].to_pylist() == right[column].to_list()


def test_a_number_is_milliseconds() -> None:
    for ms in (0, -1, 1_441_015_200_123, 5):
        found = table([Review(**request(timestamp=ms))])["timestamp"]
        assert found.cast(pa.int64()).to_pylist() == [ms]
    assert Review(**request(timestamp=0)).timestamp == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"text": 5}, "string_type", "text"),
        ({"user_id": None}, "string_type", "user_id"),
        ({"item_id": " "}, "value_error", "item_id"),
        ({"titel": "misspelt"}, "extra_forbidden", "titel"),
        ({"timestamp": "yesterday"}, "datetime_from_date_parsing", "timestamp"),
        ({"timestamp": 1e300}, "value_error", "timestamp"),
        ({"timestamp": "1441015200"}, "value_error", "timestamp"),
        ({"rating": 6}, "less_than_equal", "rating"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, change: dict[str, Any], kind: str, field: str) -> None:
    assert problems(client.post("/predict", json=request(**change))) == [(kind, ["body", field])]
    answer = client.post("/predict", json=[request(), request(**change)])
    assert (answer.status_code, problems(answer)) == (422, [(kind, ["body", 1, field])])


def test_a_missing_field_is_named_and_nothing_is_echoed(client: TestClient) -> None:
    answer = client.post("/predict", json={"user_id": "U1", "text": "a secret", "item_id": "I1"})
    assert problems(answer) == [("missing", ["body", "timestamp"])]
    assert "a secret" not in answer.text


def test_text_that_is_no_text_is_refused(client: TestClient) -> None:
    body = b'{"user_id": "U1", "item_id": "I1", "text": "\\ud800", "timestamp": "2015-02-01"}'
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, problems(answer)) == (422, [("value_error", ["body", "text"])])


@pytest.mark.parametrize("text", ["", "\x00", "😀" * 2000, "<b>" * 3000, "\n\t "])
def test_odd_texts_of_unknown_users_are_predicted(client: TestClient, text: str) -> None:
    strange = {"user_id": "nobody", "item_id": "nobody's", "category": "none of ours", "timestamp": "1970-01-01"}
    answer = client.post("/predict", json=request(text=text, **strange))
    assert answer.status_code == 200, answer.text
    assert 1 <= answer.json()["prediction"] <= 5


def test_a_model_that_needs_the_stars_asks_for_them(client: TestClient, watch: Watch) -> None:
    about = watch.served.champion.scorer.model.about
    watch.served.champion.scorer.model.about = about.model_copy(
        update={"groups": {**about.groups, "stars": ["rating"]}}
    )
    answer = client.post("/predict", json=[request(rating=4), request()])
    assert (answer.status_code, problems(answer)) == (422, [("missing", ["body", 1, "rating"])])
    assert client.post("/predict", json=request(rating=4)).status_code == 200


def test_a_text_of_ten_megabytes_is_predicted_where_the_limit_allows_it(tmp_path: Path) -> None:
    with TestClient(app_of(watched(Shelf(champion="1"), tmp_path, max_body_kb=16_384))) as client:
        answer = client.post("/predict", json=[request(text="good & bad " * 1_000_000), request()])
    assert answer.status_code == 200
    assert [row["problem"] for row in answer.json()] == [None, None]


def test_limits(client: TestClient) -> None:
    many = client.post("/predict", json=[request()] * 21)
    assert (many.status_code, problems(many)) == (413, [("too_many_reviews", ["body"])])
    large = client.post("/predict", json=request(text="x" * 70_000))
    assert (large.status_code, problems(large)) == (413, [("too_large", ["body"])])
    pieces = client.post("/predict", content=iter([b" " * 9_000] * 9), headers={"content-type": "application/json"})
    assert (pieces.status_code, problems(pieces)) == (413, [("too_large", ["body"])])
    assert client.post("/predict", json=[]).json() == []


def test_reasons_on_request(client: TestClient) -> None:
    explained = client.post("/predict?reasons=3", json=[request(), request(text="bad broke")]).json()
    assert [len(row["reasons"]) for row in explained] == [3, 3]
    sizes = [abs(reason["contribution"]) for reason in explained[0]["reasons"]]
    assert sizes == sorted(sizes, reverse=True)
    assert client.post("/predict", json=request()).json()["reasons"] is None
    assert problems(client.post("/predict?reasons=51", json=request())) == [("less_than_equal", ["query", "reasons"])]


class Poisoned:
    """A scorer that fails on some text, in one of two ways."""

    def __init__(self, scorer: Any, error: type[Exception]) -> None:
        self.scorer, self.error = scorer, error
        self.model, self.schema = scorer.model, scorer.schema

    def __call__(self, rows: Any) -> Any:
        if "poison" in rows["text"].to_pylist():
            raise self.error("it does not agree")
        return self.scorer(rows)


@pytest.mark.parametrize("error", [ValueError, TypeError, MemoryError])
def test_a_poison_row_fails_alone(client: TestClient, watch: Watch, error: type[Exception]) -> None:
    champion = watch.served.champion
    champion.scorer = Poisoned(champion.scorer, error)  # type: ignore[assignment]
    rows = client.post("/predict", json=[request(), request(text="poison"), request(text="bad")]).json()
    assert [row["problem"] is None for row in rows] == [True, False, True]
    assert rows[1]["prediction"] is None
    alone = client.post("/predict", json=request(text="poison"))
    assert (alone.status_code, problems(alone)) == (422, [("not_scorable", ["body"])])
    assert 'raymill_reviews_total{outcome="unscored"} 2.0' in client.get("/metrics").text


def test_a_failing_request_is_told_without_a_traceback(client: TestClient, watch: Watch) -> None:
    watch.served.champion = None  # type: ignore[assignment]
    answer = client.post("/predict", json=request())
    assert (answer.status_code, problems(answer)) == (500, [("internal", [])])
    assert "Traceback" not in answer.text
    numbers = client.get("/metrics").text
    assert 'raymill_requests_total{path="/predict",status="500"} 1.0' in numbers
    assert "raymill_predict_seconds_count 1.0" in numbers


def test_a_token_is_demanded(tmp_path: Path) -> None:
    with TestClient(app_of(watched(Shelf(champion="1"), tmp_path, token=TOKEN))) as client:
        for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": TOKEN}):
            answer = client.post("/predict", json=request(), headers=headers)
            assert (answer.status_code, problems(answer)) == (401, [("token", ["header", "Authorization"])])
            assert client.get("/metrics", headers=headers).status_code == 401
        assert client.post("/predict", json=request(), headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_another_host_needs_a_token_which_is_never_shown() -> None:
    with pytest.raises(SettingsError, match=r"RAYMILL__SERVE__TOKEN"):
        check_access(config(host="0.0.0.0"))
    check_access(config(host="0.0.0.0", token=TOKEN))
    check_access(config(host="::1"))
    assert TOKEN not in repr(config(token=TOKEN)) + config(token=TOKEN).model_dump_json()
    with pytest.raises(SettingsError, match="16 characters"):
        load_settings(overrides=["serve.token=short"])


def test_the_page_of_the_interface_names_every_field_and_loads_nothing(client: TestClient) -> None:
    page = client.get("/docs").text
    for name in (*Review.model_fields, *Prediction.model_fields):
        assert f"<code>{name}</code>" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"?https?:", page)
    openapi = client.get("/openapi.json").json()
    assert set(openapi["paths"]["/predict"]["post"]["responses"]) == {"200", "401", "413", "422", "503"}


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium to look at pages with")
def test_a_browser_shows_the_page_of_the_interface_and_asks_this_server_alone(watch: Watch) -> None:
    server = uvicorn.Server(uvicorn.Config(app_of(watch), port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        seen = text_of(f"http://127.0.0.1:{port}/docs", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    finally:
        server.should_exit = True
        thread.join()
    for words in ("POST /predict", "user_id *", "Too many reviews wait", "GET /healthz", "* must be there"):
        assert words in seen
    asked = watch.served.measures.page().decode()
    assert 'raymill_requests_total{path="/docs",status="200"} 1.0' in asked


def test_metrics_and_health(client: TestClient) -> None:
    client.post("/predict", json=[request()] * 3)
    client.get("/nowhere")
    numbers = client.get("/metrics").text
    for line in (
        'raymill_requests_total{path="/predict",status="200"} 1.0',
        'raymill_requests_total{path="other",status="404"} 1.0',
        'raymill_reviews_total{outcome="scored"} 3.0',
        f'raymill_champion{{model="{NAME}",version="1"}} 1.0',
        "raymill_registry_up 1.0",
    ):
        assert line in numbers
    health = client.get("/healthz").json()
    assert (health["status"], health["model"], health["version"], health["shadow"]) == ("ok", NAME, "1", None)


def test_requests_that_wait_are_predicted_together_and_one_that_hung_up_hinders_none() -> None:
    sizes: list[int] = []

    async def talk() -> list[Any]:
        going = asyncio.Event()
        loop = asyncio.get_running_loop()

        def score(asked: Any) -> list[list[Any]]:
            sizes.append(len(asked))
            loop.call_soon_threadsafe(going.set)
            return [[one.reasons] for one in asked]

        batches = Batches(score, limit=3)
        review = Review(**request())
        first = asyncio.create_task(batches(Asked([review], 0)))
        others = [asyncio.create_task(batches(Asked([review], i))) for i in range(1, 6)]
        await asyncio.sleep(0)
        others[0].cancel()
        return await asyncio.gather(first, *others, return_exceptions=True)

    found = asyncio.run(talk())
    assert isinstance(found[1], asyncio.CancelledError)
    assert [found[0], *found[2:]] == [[0], [2], [3], [4], [5]]
    assert len(sizes) < 5


def test_a_batch_that_fails_fails_for_its_requests_alone() -> None:
    async def talk() -> list[Any]:
        def score(asked: Any) -> list[list[Any]]:
            if asked[0].reasons:
                raise RuntimeError("no")
            return [[]]

        batches = Batches(score, limit=1)
        review = Review(**request())
        return await asyncio.gather(*(batches(Asked([review], i)) for i in (0, 1, 0)), return_exceptions=True)

    found = asyncio.run(talk())
    assert [type(one) for one in found] == [list, RuntimeError, list]


def test_too_many_waiting_reviews_get_503(tmp_path: Path) -> None:
    watch = watched(Shelf(champion="1"), tmp_path, max_waiting=1)

    async def talk() -> list[httpx.Response]:
        held = asyncio.Event()

        async def predict(asked: Asked) -> list[Prediction]:
            await held.wait()
            return watch.served.predict([asked])[0]

        transport = httpx.ASGITransport(app=make_app(watch.config, watch, predict))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = asyncio.create_task(client.post("/predict", json=request()))
            while watch.served.measures.waiting._value.get() == 0:
                await asyncio.sleep(0)
            second = await client.post("/predict", json=request())
            held.set()
            return [await first, second]

    first, second = asyncio.run(talk())
    assert (first.status_code, second.status_code) == (200, 503)
    assert second.headers["Retry-After"] == "1"
