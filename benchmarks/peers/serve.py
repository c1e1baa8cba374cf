"""The least that serves a package of a model: FastAPI, uvicorn and a lock. No limits, batches, metrics or promotion.

python -m benchmarks.peers.serve FOLDER PORT
"""

import sys
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import Body, FastAPI

from tasks.stages.package.review_model import ReviewModel


def main(folder: str, port: str) -> None:
    model, lock, app = ReviewModel.load(Path(folder)), threading.Lock(), FastAPI()

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    def predict(body: list[dict[str, Any]] | dict[str, Any] = Body()) -> Any:  # noqa: B008
        with lock:
            found = model.predict(body if isinstance(body, list) else [body]).tolist()
        answers = [{"prediction": one, "model_version": ""} for one in found]
        return answers if isinstance(body, list) else answers[0]

    uvicorn.run(app, port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
