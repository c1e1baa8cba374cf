"""Groups `text`, `language` and `embeddings`: what models of earlier reviews say of a review's words."""

from __future__ import annotations

from tasks.stages.features.group import Group
from tasks.stages.features.text_score import ANSWERS

TEXT = Group(
    name="text",
    says="scores of linear models of the words",
    columns={
        "text_score": "label expected from the words by models of earlier reviews; null in the first block",
        **ANSWERS,
    },
)
LANGUAGE = Group(
    name="language",
    says="scores of the language model",
    columns={
        "lm_surprise": "bits per token by the n-grams of earlier periods; null in the first",
        "lm_high": "by how many bits a token it is worded as earlier reviews of 4 and 5 stars; null in the first",
    },
)
EMBEDDINGS = Group(
    name="embeddings",
    says="vectors and segments, where the stage embeddings is switched on",
    columns={},  # as many as its settings say
)
