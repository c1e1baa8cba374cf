"""Name the classes of JPEGs by a network that tasks.deep.launch has trained.

    python -m tasks.deep.classify --model FOLDER --pictures FOLDER

In: --model holds model.safetensors and model.json; --pictures a folder of each class, as for training. Out: a line of
JSON for each file, with the class that is most probable and how probable it is, null for a file that is left out; then
one with the share of those that are in their class's folder.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.deep import installed

if __name__ == "__main__":
    installed.check()

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tasks.core.errors import InputError, RaymillError
from tasks.deep import cnn, pictures
from tasks.deep.settings import CnnConfig

ROWS = 256  # at a time


def opened(folder: Path) -> tuple[cnn.Cnn, tuple[str, ...]]:
    """Return the network and its classes. Raises InputError for a folder without them."""
    try:
        facts = json.loads((folder / "model.json").read_text())
        names = tuple(facts.pop("classes"))
        model = cnn.build(CnnConfig(**facts), len(names), seed=0)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, ValidationError, SafetensorError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(
            f"no network of pictures ({first})", where=str(folder), fix="what `tasks.deep.launch --pictures` has saved"
        ) from error
    return model.eval(), names


@torch.no_grad()  # type: ignore[untyped-decorator]
def probabilities(model: cnn.Cnn, rows: dict[str, Tensor]) -> Tensor:
    """Return (n, classes)."""
    parts = zip(rows["tokens"].split(ROWS), rows["mask"].split(ROWS), strict=True)
    return torch.cat([model(tokens, mask).softmax(1) for tokens, mask in parts])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tasks.deep.classify", description="Name the classes of JPEGs.")
    parser.add_argument("--model", type=Path, required=True, help="the --folder of a training")
    parser.add_argument("--pictures", type=Path, required=True, help="a folder with a folder of JPEGs for each class")
    given = parser.parse_args(arguments)
    try:
        model, names = opened(given.model)
        found = pictures.from_folder(given.pictures, model.config.side)
    except RaymillError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
    most, best = probabilities(model, found.rows).max(1)
    right = 0
    for file, number, probability in zip(found.files, best.tolist(), most.tolist(), strict=True):
        right += file.parent.name == names[number]
        print(json.dumps({"file": str(file), "class": names[number], "probability": round(probability, 4)}))
    for file, reason in found.left_out:
        print(json.dumps({"file": str(file), "class": None, "left_out": reason}))
    print(json.dumps({"pictures": len(found.files), "right": right / len(found.files)}))


if __name__ == "__main__":
    main()
