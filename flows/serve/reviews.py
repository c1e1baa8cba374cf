"""What a client sends to `POST /predict` and what it gets, as pydantic models; a page of the interface shows them.

A review has the fields of `tasks.stages.package.raw_reviews`. Others are refused: a misspelt optional field would make
predictions worse, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from tasks.domain.ids import plain
from tasks.domain.schemas import UNRATED

EARLIEST_MS, LATEST_MS = -62_135_596_800_000, 253_402_300_799_999  # years 1 to 9999


def _moment(value: Any) -> Any:
    """Take a number for milliseconds since 1970, where pydantic would guess between seconds and milliseconds."""
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lstrip("+-").replace(".", "", 1).isdigit()):
        raise ValueError("give an ISO 8601 text, or a number of milliseconds since 1970")
    if isinstance(value, int | float):
        if not EARLIEST_MS <= value <= LATEST_MS:
            raise ValueError("the time is not within the years 1 to 9999")
        return datetime.fromtimestamp(value // 1000, UTC).replace(microsecond=int(value % 1000) * 1000)
    return value


def _writable(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds half of a surrogate pair") from None
    return text


def _id(text: str) -> str:
    """Read an id as ingest does. Raises ValueError for an empty one."""
    if not (name := plain(text)):
        raise ValueError("an id is needed, and this is empty")
    return name


Text = Annotated[str, AfterValidator(_writable)]
Id = Annotated[Text, AfterValidator(_id)]
# Without white space around it; an empty one is none, as it is to ingest.
Category = Annotated[Text, AfterValidator(lambda text: text.strip() or None)]
Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=str | float)]


class Review(BaseModel):
    """A review to predict. Stars matter only to a model that takes them for a feature."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user_id": "A3", "item_id": "B0001", "text": "Works as it should.", "timestamp": "2015-08-31"},
            ]
        },
    )

    user_id: Id
    item_id: Id
    text: Text
    timestamp: Moment = Field(description="ISO 8601, or milliseconds since 1970; without a zone: UTC")
    title: Text | None = None
    verified: bool | None = None
    category: Category | None = None
    rating: Annotated[float, Field(ge=1, le=5)] | None = None
    review_id: Text | None = Field(None, description="Returned with the prediction")


def _kind(body: Any) -> str:
    return "reviews" if isinstance(body, list) else "review"


Body = Annotated[
    Annotated[Review, Tag("review")] | Annotated[list[Review], Tag("reviews")],
    Discriminator(_kind),
]


class Reason(BaseModel):
    """A feature's contribution to a prediction (a SHAP value)."""

    feature: str
    contribution: float


class Prediction(BaseModel):
    """prediction, low, high: as of `raymill score`. A review that cannot be scored has a `problem` instead."""

    review_id: str | None
    prediction: float | None
    low: float | None
    high: float | None
    classes: list[float] | None = Field(None, description="The share of each class, of a target of several")
    model_version: str
    reasons: list[Reason] | None = None
    problem: str | None = None


class Problem(BaseModel):
    """What was wrong, and where in the request."""

    type: str
    loc: list[str | int]
    msg: str


class Problems(BaseModel):
    detail: list[Problem]


@dataclass(frozen=True)
class Asked:
    """The reviews of one request. reasons: how many contributions to give with each prediction."""

    reviews: Sequence[Review]
    reasons: int = 0


def table(reviews: Sequence[Review]) -> pa.Table:
    """Return the reviews in the columns of `tasks.domain.schemas.UNRATED`, times in whole milliseconds."""
    columns: dict[str, Any] = {name: [getattr(one, name, None) for one in reviews] for name in UNRATED.names}
    columns["review_id"] = [str(i) for i in range(len(reviews))]
    columns["timestamp"] = [_ms(one.timestamp) for one in reviews]
    for name in ("title", "text"):
        columns[name] = [text or "" for text in columns[name]]
    return pa.Table.from_arrays([pa.array(columns[field.name], field.type) for field in UNRATED], schema=UNRATED)


def _ms(moment: datetime) -> int:
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def pieces(found: Sequence[Any], asked: Sequence[Asked]) -> Iterator[list[Any]]:
    """Cut what was found of all reviews into the requests' shares."""
    first = 0
    for one in asked:
        yield list(found[first : first + len(one.reviews)])
        first += len(one.reviews)
