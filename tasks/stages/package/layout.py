"""What a package of a model holds: its files, and `about.json`, which says how they are used."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import InputError
from tasks.stages.clean.settings import CleanConfig
from tasks.stages.language_model.settings import LanguageModelConfig

FORMAT = 1
ABOUT, MODEL, TOKENIZER, TEXT_SCORE, VECTORS = (
    "about.json", "model.ubj", "tokenizer.json", "text_score.npz", "vectors.npz",
)  # fmt: skip
# Only in a registered model: raw reviews with their `prediction`, and `tasks.algorithms.conformal.Intervals`.
EXAMPLE, INTERVALS = "example.parquet", "intervals.json"
WORDS, NGRAMS, ITEMS = "words", "ngrams", "items"  # tables


def past_table(kind: str) -> str:
    """Return the table with what was known of users, items, categories or brands (`past_state.STATE`)."""
    return f"past-{kind}"


class LanguageAbout(BaseModel):
    """The language model's part. tokens: counted before its last period, in all reviews and in those of high stars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: LanguageModelConfig
    tokens: tuple[int, int]


class About(BaseModel):
    """How a package scores. since: ms; a review written from then on is scored as among all reviews, an earlier one as
    if it had been written then. until: ms of the latest review that the package knows of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    target: str
    features: list[str]
    groups: dict[str, list[str]]
    past: dict[str, list[str]]  # the columns of `past_aggregates.KNOWN` that are features, by kind
    since: int
    until: int
    clean: CleanConfig
    splitting: str
    max_tokens: int | None
    language: LanguageAbout | None
    reviews: int

    @classmethod
    def parse(cls, text: str, where: str) -> About:
        """Raise InputError for a package of another format."""
        from pydantic import ValidationError

        try:
            about = cls.model_validate_json(text)
        except ValidationError as error:
            raise InputError(
                f"no package of this version of Raymill: {error.errors()[0]['msg']}", where=where
            ) from None
        if about.format != FORMAT:
            raise InputError(f"a package of format {about.format}, not {FORMAT}", where=where)
        return about
