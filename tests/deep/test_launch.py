"""The same loop under torchrun and Accelerate, and what it says of wrong input."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch", reason="needs the extra deep: torch")

from tasks.core.errors import SettingsError  # noqa: E402
from tasks.core.sections import PROJECT  # noqa: E402
from tasks.deep.launch import joined, main, settings  # noqa: E402

TINY = [
    f"--set={text}"
    for text in (
        "model.vocabulary=61",
        "model.positions=8",
        "model.width=16",
        "model.hidden=32",
        "training.steps=4",
        "training.checkpoint_every=2",
        "step_rows=8",
    )
]
BIN = Path(sys.executable).parent


def launched(*command: str) -> list[dict[str, object]]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:/usr/bin:/bin"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def alone(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, object]]:
    main([*TINY, "--synthetic", "24", "--device", "cpu", *arguments])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(("torchrun", "--standalone", "--nproc-per-node=2"), id="torchrun"),
        pytest.param(
            ("accelerate", "launch", "--config_file", "deploy/deep/accelerate.yaml"),
            id="accelerate",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_two_ranks_of_a_launcher_train_what_one_process_does(
    launcher: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (BIN / launcher[0]).exists():
        pytest.skip(f"needs the extra deep: {launcher[0]}")
    command = [str(BIN / launcher[0]), *launcher[1:], "-m", "tasks.deep.launch", *TINY, "--synthetic", "24"]
    *steps, end = launched(*command, "--set=parallel.zero=2", "--device=cpu", "--folder", str(tmp_path))
    assert end["ranks"] == 2
    assert [step["step"] for step in steps] == [0, 1, 2, 3]
    *expected, _ = alone(capsys)
    assert [s["loss"] for s in steps] == pytest.approx([s["loss"] for s in expected], abs=1e-5)
    assert (tmp_path / "model.safetensors").is_file()
    # Started again, alone, with nothing left to do: what two ranks wrote is read.
    *none, again = alone(capsys, "--folder", str(tmp_path))
    assert none == []
    assert again["resumed"] == 4


def test_blocks_of_tokens_train_the_next_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [[(i + j) % 50 for j in range(9)] for i in range(20)]
    pq.write_table(pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32(), 9))}), tmp_path / "blocks.parquet")
    *steps, _ = alone(capsys, "--tokens", str(tmp_path), "--set=training.learning_rate=0.01")
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_without_torch_the_command_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "tasks.deep.launch")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("tasks.deep.launch", run_name="__main__")
    assert ended.value.code == 2
    assert "pip install -c constraints.txt -e '.[deep]'" in capsys.readouterr().err


@pytest.mark.parametrize("of_this_machine", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_ranks_of_one_machine_talk_over_loopback(monkeypatch: pytest.MonkeyPatch, of_this_machine: str) -> None:
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "2", of_this_machine: "2"})
    with joined("cpu"):
        assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "4", of_this_machine: "2"})
    with joined("cpu"):
        assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_rank_that_fails_on_a_gpu_does_not_wait_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("left"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    with pytest.raises(KeyError), joined("cuda"):
        raise KeyError
    assert left == []  # NCCL would wait there
    with joined("cuda"):
        pass
    with pytest.raises(KeyError), joined("cpu"):
        raise KeyError
    assert left == ["left", "left"]


def test_a_profile_names_the_operators_that_take_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.json"
    main([*TINY, "--synthetic", "24", "--device", "cpu", "--profile", str(trace)])
    table = capsys.readouterr().err.splitlines()
    assert table[0].split() == ["operator", "ms", "calls", "MB"]
    assert {"aten::mm", "aten::addmm", "aten::_fused_adamw_"} & {line.split()[0] for line in table[1:]}
    assert json.loads(trace.read_text())["traceEvents"]


def test_wrong_settings_and_files_are_refused_saying_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match=r"model.widht: Extra inputs"):
        settings(["model.widht=3"], "regression")
    with pytest.raises(SettingsError, match=r"width 10 must be a multiple of heads 4"):
        settings(["model.width=10"], "regression")
    with pytest.raises(SettingsError, match=r"leave some of 8 pipeline stages idle"):
        settings(["parallel.pipeline=8"], "regression")
    with pytest.raises(SettingsError, match="model is a value, not a group"):
        settings(["model=3", "model.width=8"], "regression")
    with pytest.raises(SettingsError, match="--tokens trains the next token"):
        settings(["model.objective=next-token"], "regression")
    with pytest.raises(SettingsError, match="is no value"):
        settings(["model.width=[8"], "regression")
    with pytest.raises(SettingsError, match=r"training.evaluate_every: .*none is left to validate by"):
        settings(["training.evaluate_every=10", "training.patience=2"], "regression")
    alone(capsys, "--folder", str(tmp_path / "model"))
    with pytest.raises(SystemExit):
        main([*TINY, "--synthetic", "25", "--device", "cpu", "--folder", str(tmp_path / "model")])
    assert "of.rows was" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        alone(capsys, "--set=parallel.data=2")
    assert ended.value.code == 2
    assert "start 2 ranks" in capsys.readouterr().err
