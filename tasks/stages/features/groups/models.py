"""Groups `text`, `language` and `embeddings`: outputs of models of the text, learned from earlier reviews."""

from __future__ import annotations

from tasks.stages.features.group import Group
from tasks.stages.features.text_score import ANSWERS

TEXT = Group(
    name="text",
    says="scores of linear models of the words",
    columns={
        "text_score": "expected label, by models of the words of earlier reviews; null in the first block",
        **ANSWERS,
    },
)
LANGUAGE = Group(
    name="language",
    says="scores of the language model",
    columns={
        "lm_surprise": "bits per token by the n-grams of earlier periods; null in the first",
        "lm_high": "bits per token by which its wording resembles earlier reviews of 4 and 5 stars; null in the first",
    },
)
EMBEDDINGS = Group(
    name="embeddings",
    says="vectors and segments, if the stage embeddings is switched on",
    columns={},  # the stage's settings decide how many
)
