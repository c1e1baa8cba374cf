"""A version of the registered model in memory, and what predicts: the champion, and the shadow beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.serve import reviews
from flows.serve.measures import Measures
from flows.serve.reviews import Asked, Prediction, Review
from flows.serve.shadow import Shadow
from tasks.stages.score.scorer import PROBLEM, Scorer


@dataclass
class LoadedModel:
    """For one thread at a time, as `ReviewModel` is."""

    name: str
    version: str
    scorer: Scorer
    since: float = field(default_factory=time.time)

    @classmethod
    def load(cls, name: str, version: str, folder: Path) -> LoadedModel:
        """Load a package and check that it predicts its example as it did where it was made."""
        return cls(name, version, Scorer(folder, version, 0))

    @property
    def needs_stars(self) -> bool:
        return "stars" in self.scorer.model.about.groups

    def predict(self, asked: Sequence[Asked]) -> list[list[Prediction]]:
        """Predict the reviews of requests at once; reasons are computed for those requests alone that want them."""
        plain = [one for one in asked if not one.reasons]
        explained = [one for one in asked if one.reasons]
        found = {id(one): answer for some in (plain, explained) for one, answer in self._of(some)}
        return [found[id(one)] for one in asked]

    def _of(self, asked: Sequence[Asked]) -> list[tuple[Asked, list[Prediction]]]:
        rows = [review for one in asked for review in one.reviews]
        if not rows:
            return [(one, []) for one in asked]
        self.scorer.reasons = max(one.reasons for one in asked)
        cut = reviews.pieces(list(zip(rows, self._scored(rows), strict=True)), asked)
        return [
            (one, [self._told(review.review_id, row, one.reasons) for review, row in piece])
            for one, piece in zip(asked, cut, strict=True)
        ]

    def _scored(self, rows: Sequence[Review]) -> list[dict[str, Any]]:
        """Return the scorer's rows. It isolates rows with bad contents; what else a row may bring about is isolated
        here, as the others belong to other clients."""
        try:
            scored: list[dict[str, Any]] = self.scorer(reviews.table(rows)).to_pylist()
            return scored
        except Exception as error:
            if len(rows) > 1:
                half = len(rows) // 2
                return [*self._scored(rows[:half]), *self._scored(rows[half:])]
            nothing = dict.fromkeys((*self.scorer.schema.names, PROBLEM))
            return [nothing | {PROBLEM: f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}]

    def _told(self, review_id: str | None, row: dict[str, Any], reasons: int) -> Prediction:
        shares = [row[name] for name in row if name.startswith("prediction_")]
        return Prediction(
            review_id=review_id,
            prediction=row["prediction"],
            low=row["low"],
            high=row["high"],
            classes=None if None in shares else shares or None,
            model_version=self.version,
            reasons=row["reasons"][:reasons] if reasons and row["reasons"] else None,
            problem=row[PROBLEM],
        )


@dataclass
class Served:
    """What a replica serves: `champion` is replaced whole while requests go on, each batch by one version."""

    champion: LoadedModel
    measures: Measures
    shadow: Shadow | None = None
    _predicting: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, asked: Sequence[Asked]) -> list[list[Prediction]]:
        """Predict by the champion, and hand the same requests to the shadow, which nobody waits for."""
        with self._predicting:  # models are for one thread at a time
            found = self.champion.predict(asked)
        self.measures.predicted(found)
        if self.shadow is not None:
            self.shadow.see(asked, found)
        return found

    def promote(self, model: LoadedModel) -> None:
        """Serve another version from the next batch on."""
        self.champion = model
        self.measures.serves(model.name, model.version)
