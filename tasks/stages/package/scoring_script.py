"""What MLflow runs to load a registered model (models from code: nothing is pickled)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pyfunc

from tasks.stages.package.review_model import ReviewModel


class RawReviews(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc]  # MLflow has no types
    """Predicts from raw reviews."""

    def load_context(self, context: Any) -> None:
        self.model = ReviewModel.load(Path(context.artifacts["package"]))
        self.model.check()

    # Without hints: of all but list[...] MLflow warns more often than of none.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return (n,) or (n, classes) predictions of the target. model_input: the columns of the model's signature."""
        return self.model.predict(model_input)


mlflow.models.set_model(RawReviews())
