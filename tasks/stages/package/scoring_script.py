"""What MLflow runs to load a registered model (models from code: nothing is pickled)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tasks.stages.package.review_model import ReviewModel


class RawReviews(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc]  # MLflow has no types
    """Predicts from raw reviews."""

    def load_context(self, context: Any) -> None:
        self.model = ReviewModel.load(Path(context.artifacts["package"]))
        self.model.check()

    # MLflow reads the hint of `model_input`. Of a frame it infers no signature, so ours holds; without one it warns.
    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> NDArray[np.float32]:
        """Return (n,) or (n, classes) predictions of the target. model_input: the columns of the model's signature."""
        return self.model.predict(model_input)


mlflow.models.set_model(RawReviews())
