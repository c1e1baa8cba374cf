"""The language model in plain Python, with a dictionary for each count: the oracle of the stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.stages.language_model.ngrams import PRIOR
from tasks.stages.language_model.settings import LanguageModelConfig

Gram = tuple[int, ...]


@dataclass(frozen=True)
class Review:
    """One review: the period it is in, its stars and its tokens."""

    period: int
    stars: float
    tokens: tuple[int, ...]


def grams_of(review: Review, order: int) -> list[Gram]:
    return [
        review.tokens[end - n : end]
        for n in range(1, order + 1)
        for end in range(n, len(review.tokens) + 1)
    ]  # fmt: skip


def counts(reviews: Sequence[Review], config: LanguageModelConfig) -> dict[tuple[Gram, int], tuple[int, int]]:
    """By gram and period: occurrences in all reviews and in those of four stars and more; without the rare ones."""
    everywhere = Counter(gram for r in reviews for gram in grams_of(r, config.order))
    found: dict[tuple[Gram, int], tuple[int, int]] = {}
    for r in reviews:
        for gram in grams_of(r, config.order):
            if len(gram) == 1 or everywhere[gram] >= config.min_count:
                in_all, in_high = found.get((gram, r.period), (0, 0))
                found[gram, r.period] = in_all + 1, in_high + (r.stars >= 4)
    return found


class Model:
    """What the reviews before a period have said."""

    def __init__(self, earlier: Sequence[Review], config: LanguageModelConfig) -> None:
        self.config = config
        self.count: Counter[Gram] = Counter(gram for r in earlier for gram in grams_of(r, config.order))
        self.high = Counter(gram for r in earlier if r.stars >= 4 for gram in grams_of(r, config.order))
        for gram in [g for g, n in self.count.items() if len(g) > 1 and n < config.min_count]:
            del self.count[gram], self.high[gram]
        self.low = self.count - self.high
        self.total = sum(len(r.tokens) for r in earlier)
        self.total_high = sum(len(r.tokens) for r in earlier if r.stars >= 4)

    def likely(self, context: Gram, token: int) -> float:
        """Brants and others (2007), equation 5."""
        gram = (*context, token)
        if not context:
            return self.count[gram] / self.total if self.count[gram] else self.config.backoff / (self.total + 1)
        if self.count[gram]:
            return self.count[gram] / self.count[context]
        return self.config.backoff * self.likely(context[1:], token)

    def ratio(self, count: Counter[Gram], total: int, context: Gram, token: int) -> float:
        """How much likelier a class is to say the token than all are, with a prior from the next shorter context."""
        prior = PRIOR[len(context)] * (self.ratio(count, total, context[1:], token) if context else 1)
        seen = count[context] if context else total
        return (count[(*context, token)] / self.likely(context, token) + prior) / (seen + PRIOR[len(context)])

    def score(self, review: Review) -> tuple[float | None, float | None]:
        """Surprise, and leaning to high."""
        total_low = self.total - self.total_high
        bits, leaning = [], []
        for i, token in enumerate(review.tokens):
            context = review.tokens[max(0, i - self.config.order + 1) : i]
            bits.append(-math.log2(self.likely(context, token)))
            high, low = (
                self.ratio(self.high, self.total_high, context, token),
                self.ratio(self.low, total_low, context, token),
            )
            leaning.append(math.log2(high / low))
        if not bits or not self.total:
            return None, None
        known = self.total_high and total_low
        return sum(bits) / len(bits), sum(leaning) / len(leaning) if known else None


def scores(reviews: Sequence[Review], config: LanguageModelConfig) -> list[tuple[float | None, float | None]]:
    models = {k: Model([r for r in reviews if r.period < k], config) for k in {r.period for r in reviews}}
    return [models[r.period].score(r) for r in reviews]
