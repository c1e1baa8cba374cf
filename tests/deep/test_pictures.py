"""Pictures as rows: each file of a folder is a row or left out with a reason; a network learns them, on any ranks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.core.errors import InputError, RanksDisagree, SettingsError  # noqa: E402
from tasks.deep import classify, cnn, launch, pictures  # noqa: E402
from tasks.deep.batches import ShuffledRows  # noqa: E402
from tasks.deep.loop import train  # noqa: E402
from tasks.deep.losses import classes  # noqa: E402
from tasks.deep.ranks import run_ranks  # noqa: E402
from tasks.deep.settings import CnnConfig, ParallelConfig, TrainingConfig  # noqa: E402
from tests.support.jpegs import jpeg  # noqa: E402
from tests.support.text_models import Outcome, agree, train_pictures  # noqa: E402

# As for the text model: sums in another order, through eight steps of Adam.
LOSS, NORM, WEIGHT = 2e-6, 2e-5, 2e-5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three and two pictures, of other sizes, and files that are none."""
    for name, sizes in (("chairs", [(64, 48), (48, 64), (32, 32)]), ("tables", [(33, 40), (300, 200)])):
        (tmp_path / name).mkdir()
        for i, size in enumerate(sizes):
            (tmp_path / name / f"{i}.jpg").write_bytes(jpeg(size, seed=i))
    (tmp_path / "tables" / "cut.jpg").write_bytes(jpeg((64, 48))[:400])
    (tmp_path / "tables" / "notes.txt").write_text("not a picture")
    (tmp_path / "tables" / ".hidden").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "README").write_text("beside the classes")
    (tmp_path / "chairs" / "more").mkdir()
    (tmp_path / "chairs" / "more" / "4.jpg").write_bytes(jpeg((16, 16)))
    (tmp_path / "chairs" / "gone.jpg").symlink_to(tmp_path / "none.jpg")
    return tmp_path


LEFT_OUT = {
    "README": "in no class's folder",
    "cut.jpg": "Truncated File Read",
    "gone.jpg": "no file, or a broken link",
    "more": "a folder in a class's",
    "notes.txt": "no JPEG",
}


def test_every_file_is_a_row_or_left_out_with_its_reason(folder: Path) -> None:
    found = pictures.from_folder(folder, side=16)
    assert found.classes == ("chairs", "tables")
    assert found.rows["tokens"].shape == (5, 1, 16, 16)
    assert found.rows["tokens"].dtype == torch.uint8
    assert found.rows["target"].flatten().tolist() == [0, 0, 0, 1, 1]
    assert [f"{file.parent.name}/{file.name}" for file in found.files[2:4]] == ["chairs/2.jpg", "tables/0.jpg"]
    reasons = {file.name: reason for file, reason in found.left_out}
    assert reasons.keys() == LEFT_OUT.keys()
    assert all(reasons[name].startswith(reason) for name, reason in LEFT_OUT.items())
    again = pictures.from_folder(folder, side=16, threads=1)
    assert all(torch.equal(again.rows[name], found.rows[name]) for name in found.rows)


def test_a_row_is_the_middle_of_the_picture() -> None:
    data = jpeg((96, 32), quality=95)
    whole = np.asarray(pictures.luma(io.BytesIO(data)), dtype=float)
    expected = whole[:, 32:64].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.abs(pictures.fitted(io.BytesIO(data), 8) - expected).max() <= 1


@pytest.mark.parametrize("names", [(), ("one",)])
def test_a_folder_without_two_classes_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(jpeg((16, 16)))
    with pytest.raises(InputError, match=f"{len(names)} pictures of {len(names)} classes"):
        pictures.from_folder(tmp_path, side=8)
    with pytest.raises(InputError, match="no such folder"):
        pictures.from_folder(tmp_path / "none", side=8)


def test_a_class_without_a_picture_is_refused_and_so_is_a_file_that_the_system_does_not_let_be_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "lamps").mkdir()
    (folder / "lamps" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"no file of the class lamps can be read; a.png: no JPEG"):
        pictures.from_folder(folder, side=8)
    (folder / "lamps" / "a.png").unlink()

    def fails(file: Path, side: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pictures, "fitted", fails)
    with pytest.raises(InputError, match=r"chairs/0.jpg: cannot be read"):  # another rank might have read it
        pictures.from_folder(folder, side=8)


def test_a_network_learns_shapes_that_it_has_not_seen() -> None:
    learned, unseen = pictures.rows_made(600, 32, seed=0), pictures.rows_made(100, 32, seed=1)
    model = cnn.build(CnnConfig(), len(pictures.SHAPES), seed=0)
    config = TrainingConfig(steps=120, learning_rate=0.01)
    model.load_state_dict(train(model, ShuffledRows(learned, 32), config, loss=classes).weights)
    with torch.no_grad():
        right = model(unseen["tokens"], unseen["mask"]).argmax(1) == unseen["target"][:, 0]
    assert right.float().mean() > 0.5  # one in four by chance


WAYS = {
    1: {"micro-batches": (ParallelConfig(), 3), "one replica": (ParallelConfig(), 1)},
    2: {
        "data": (ParallelConfig(), 1),
        "data, micro-batches": (ParallelConfig(), 3),
        "ZeRO 1": (ParallelConfig(zero=1), 1),
        "ZeRO 3": (ParallelConfig(zero=3), 1),
    },
    3: {"data": (ParallelConfig(), 1), "ZeRO 2": (ParallelConfig(zero=2), 1)},
}


@pytest.fixture(scope="module")
def one_process() -> Outcome:
    [[only]] = run_ranks(train_pictures, 1, [(ParallelConfig(), 1)])
    return only


@pytest.mark.parametrize("world_size", WAYS)
def test_replicas_train_what_one_process_trains(world_size: int, one_process: Outcome) -> None:
    ranks = run_ranks(train_pictures, world_size, list(WAYS[world_size].values()))
    for index, name in enumerate(WAYS[world_size]):
        for rank, results in enumerate(ranks):
            assert results[index].losses == pytest.approx(one_process.losses, abs=LOSS), f"{name}, rank {rank}"
            assert results[index].norms == pytest.approx(one_process.norms, rel=NORM), f"{name}, rank {rank}"
        weights = ranks[0][index].weights
        apart = {k: float((weights[k] - w).abs().max()) for k, w in one_process.weights.items()}
        assert max(apart.values()) <= WEIGHT, f"{name}: {apart}"


def test_only_replicas_share_a_network(tmp_path: Path) -> None:
    for parallel in (ParallelConfig(tensor=2), ParallelConfig(pipeline=2)):
        with pytest.raises(InputError, match="built-in encoder"):
            run_ranks(train_pictures, 2, [(parallel, 1)])


def test_the_command_trains_says_what_is_left_out_and_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("model.side=16", "training.steps=4", "training.checkpoint_every=4", "step_rows=4")
    options = [*(f"--set={text}" for text in settings), "--device=cpu"]
    kept = folder.parent / f"{folder.name}-model"
    launch.main(["--pictures", str(folder), *options, "--folder", str(kept)])
    said = capsys.readouterr()
    *steps, end = [json.loads(line) for line in said.out.splitlines()]
    assert [step["tokens"] for step in steps] == [4, 1, 4, 1]  # pictures
    assert end["steps"] == 4
    assert said.err.startswith(f"5 of 10 files are left out, first {folder}/README: in no class's folder")
    assert json.loads((kept / "model.json").read_text())["classes"] == ["chairs", "tables"]
    launch.main(["--pictures", str(folder), *options, "--folder", str(kept)])
    assert json.loads(capsys.readouterr().out)["resumed"] == 4  # one line: no step was left to do

    classify.main(["--model", str(kept), "--pictures", str(folder)])
    *lines, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 10
    named = [line for line in lines if line["class"]]
    assert [line["file"] for line in named] == [str(file) for file in pictures.from_folder(folder, 16).files]
    right = [Path(line["file"]).parent.name == line["class"] for line in named]
    assert last == {"pictures": 5, "right": sum(right) / 5}
    assert {Path(line["file"]).name for line in lines if not line["class"]} == LEFT_OUT.keys()
    for wrong in (folder, folder / "none"):
        with pytest.raises(SystemExit) as ended:
            classify.main(["--model", str(wrong), "--pictures", str(folder)])
        assert ended.value.code == 2
        assert "no network of pictures" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        launch.main(["--pictures", str(folder), "--folder", str(folder / "model")])
    assert "it would be a class of the pictures" in capsys.readouterr().err
    assert not (folder / "model").exists()


def test_ranks_that_have_read_other_rows_do_not_train() -> None:
    assert run_ranks(agree, 2, ["0a" * 32] * 2) == [None, None]
    with pytest.raises(RanksDisagree, match="ranks differ in the rows"):
        run_ranks(agree, 2, ["0a" * 32, "0b" * 32])


def test_settings_of_texts_are_refused_for_pictures() -> None:
    with pytest.raises(SettingsError, match=r"model.vocabulary: Extra inputs"):
        launch.settings(["model.vocabulary=9"], "pictures")
    with pytest.raises(SettingsError, match="no multiple of 8"):
        launch.settings(["model.side=12"], "pictures")


def test_drawn_jpegs_come_from_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tasks.deep.pictures", "--out", str(tmp_path / "a")]
    assert subprocess.run([*command, "--count", "8"], check=True, capture_output=True, text=True).stdout
    assert sorted(file.parent.name for file in tmp_path.glob("a/*/*.jpg")) == sorted([*pictures.SHAPES] * 2)
    for count, said in (("2", "at least 4 pictures"), ("8", "it is not empty")):
        refused = subprocess.run([*command, "--count", count], capture_output=True, text=True)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 2)
        assert said in refused.stderr
