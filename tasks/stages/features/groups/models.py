"""Groups `text`, `language`, `embeddings` and `deep`: outputs of models of the text, learned from earlier reviews."""

from __future__ import annotations

from tasks.stages.features.group import Group
from tasks.stages.features.text_score import ANSWERS
from tasks.stages.text_model.rows import STARS

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
DEEP = Group(
    name="deep",
    says="scores of a transformer, if the stage text-model is switched on",
    columns={
        "deep_score": "expected label, by a transformer of earlier reviews; null in the first block",
        **{f"deep_above_{s}": f"probability of more than {s} stars, by the transformer" for s in STARS},
        "deep_stars": "stars by the transformer's squared error",
    },
)
