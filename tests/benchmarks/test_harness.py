"""The bench checks before it times, counts memory once, and reports every case in the same form."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.cases import pipeline
from benchmarks.harness import Case, Setup, Timed, run_case
from benchmarks.machine import PeakMemory
from benchmarks.processes import run_command
from tasks.core.errors import RunError, UserError
from tasks.core.sections import PROJECT


def sums_equal(data: list[int], ours: int, peers: dict[str, int]) -> str:
    assert all(peer == ours for peer in peers.values()), f"sum {ours}, peers {peers}"
    return "the same sum"


def add_case(calls: list[str], *, peer: Callable[[list[int]], int] = sum) -> Case:
    def noting(name: str, side: Callable[[list[int]], int]) -> Callable[[list[int]], int]:
        return lambda data: (calls.append(name), side(data))[1]

    return Case(
        name="add",
        size_of="integers",
        default_size=1000,
        prepare=lambda setup: list(range(setup.size)),
        ours=noting("ours", sum),
        peers={"builtin": noting("builtin", peer), "loop": noting("loop", sum)},
        check=sums_equal,
    )


def test_different_outputs_abort_before_anything_is_timed() -> None:
    calls: list[str] = []
    with pytest.raises(RunError, match="outputs differ, so nothing was timed: sum 499500") as error:
        run_case(add_case(calls, peer=lambda data: sum(data) + 1))
    assert "bench add" in str(error.value)
    assert calls == ["ours", "builtin", "loop"]


def test_sides_run_in_turn_after_the_check_and_one_warm_up() -> None:
    calls: list[str] = []
    run_case(add_case(calls), runs=1)
    assert calls == ["ours", "builtin", "loop"] * 3
    calls.clear()
    run_case(replace(add_case(calls), check_is_warm_up=True), runs=1)
    assert calls == ["ours", "builtin", "loop"] * 2


def test_result_keeps_the_json_contract() -> None:
    result = json.loads(json.dumps(run_case(add_case([]), size=10, workers=3, runs=2)))
    wanted = {"case", "size", "workers", "checked", "ours", "peers", "ratio", "machine"}
    assert wanted <= set(result)
    assert (result["case"], result["size"], result["workers"]) == ("add", {"integers": 10}, 3)
    assert result["checked"] == "the same sum"
    assert set(result["peers"]) == set(result["ratio"]) == {"builtin", "loop"}
    for side in (result["ours"], *result["peers"].values()):
        assert set(side) == {"median_s", "min_s", "max_s", "runs", "peak_rss_bytes"}
        assert side["min_s"] <= side["median_s"] <= side["max_s"]
        assert side["runs"] == 2
        assert side["peak_rss_bytes"] > 0
    assert {"cpu", "cores", "memory_bytes", "platform", "python", "libraries"} <= set(result["machine"])


def test_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    ours = [Timed(s, None) for s in (1.0, 10.0, 4.0)]
    peer = [Timed(s, None) for s in (2.0, 4.0, 1.0)]
    assert harness.ratio(ours, peer) == 2.5  # pairs 0.5, 2.5, 4.0; medians would give 4 / 2


def test_details_get_the_outputs_of_the_timed_runs() -> None:
    case = replace(add_case([]), details=lambda data, runs: {n: {"outputs": [r.output for r in runs[n]]} for n in runs})
    result = run_case(case, size=4, runs=2)
    assert result["ours"]["outputs"] == result["peers"]["loop"]["outputs"] == [6, 6]


def test_outputs_that_details_does_not_read_are_let_go_of_before_the_next_run() -> None:
    case = replace(
        add_case([]),
        details=lambda data, runs: {n: {"outputs": [r.output for r in runs[n]]} for n in runs},
        keeps_outputs=False,
    )
    assert run_case(case, runs=2)["ours"]["outputs"] == [None, None]


def test_what_a_case_opened_is_closed_and_its_scratch_folder_goes(tmp_path: Path) -> None:
    seen: list[Path | str] = []

    def prepare(setup: Setup) -> list[int]:
        setup.cleanup.callback(seen.append, "closed")
        (setup.scratch / "big").write_text("x")
        seen.append(setup.scratch)
        return [1]

    with pytest.raises(RunError):
        run_case(replace(add_case([], peer=lambda data: 0), prepare=prepare))
    scratch, closed = seen
    assert closed == "closed"
    assert isinstance(scratch, Path)
    assert not scratch.exists()


@pytest.mark.parametrize("option", [{"size": 0}, {"size": -5}, {"workers": 0}, {"runs": 0}])
def test_a_count_below_one_is_a_user_error(option: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(option))} must be 1 or more"):
        run_case(add_case([]), **option)


def test_an_unknown_case_names_the_known_ones() -> None:
    assert "pipeline" in harness.known_cases()
    assert not {"harness", "notebook", "__init__"} & set(harness.known_cases())
    with pytest.raises(UserError, match="did you mean pipeline"):
        run_case("pipelin")
    with pytest.raises(UserError, match=r"known: .*pipeline"):
        run_case("zzz")


def test_only_the_peers_asked_for_are_run_and_one_that_cannot_run_is_not_left_out_in_silence() -> None:
    calls: list[str] = []
    done = run_case(add_case(calls), peers=["loop"], runs=1)
    assert set(calls) == {"ours", "loop"}
    assert (set(done["peers"]), done["skipped"]) == ({"loop"}, {"builtin": "not asked for"})
    with pytest.raises(UserError, match=r"(?s)no peer 'loops'.*builtin, loop"):
        run_case(add_case([]), peers=["loops"])
    small = replace(add_case([]), skip=lambda size: {"loop": "too slow above 10"} if size > 10 else {})
    with pytest.raises(UserError, match="loop: too slow above 10"):
        run_case(small, peers=["loop"])


def test_input_is_refused_where_it_would_be_ignored_or_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="makes its own input"):
        run_case(add_case([]), input=tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        run_case("pipeline", input=tmp_path / "nothing")


def test_peak_memory_counts_children_and_those_whose_parent_is_gone() -> None:
    hold = "import sys; held = bytearray(64 << 20); print('held', flush=True); sys.stdin.read()"
    leave = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}]); sys.stdin.readline()"
    before = PeakMemory().sample()
    with PeakMemory(interval_s=60) as memory:
        parent = subprocess.Popen(
            [sys.executable, "-c", leave], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "held\n"
        with_both = memory.sample()
        parent.stdin.write("\n")
        parent.stdin.flush()
        parent.wait()
        orphaned = memory.sample()
        parent.stdin.close()
    assert with_both > before + (64 << 20)
    assert orphaned > before + (64 << 20)
    assert memory.peak_bytes >= with_both


@pytest.mark.slow
def test_shared_memory_is_counted_once_and_older_children_only_where_asked() -> None:
    from multiprocessing import shared_memory

    block = shared_memory.SharedMemory(create=True, size=128 << 20)
    block.buf[:] = b"x" * block.size
    spawn = multiprocessing.get_context("spawn")
    go, ready = spawn.Event(), spawn.Semaphore(0)
    before = PeakMemory().sample()
    children = [spawn.Process(target=touch, args=(block.name, ready, go)) for _ in range(3)]
    try:
        for child in children:
            child.start()
        for _ in children:
            ready.acquire()
        all_counted, own = PeakMemory().sample(), PeakMemory(count_earlier_children=False).sample()
    finally:
        go.set()
        for child in children:
            child.join()
        block.close()
        block.unlink()
    assert all_counted - before < 2 * (128 << 20)  # three more mappings of it, but no more memory of it
    assert own < all_counted


def touch(name: str, ready: object, go: object) -> None:
    from multiprocessing import shared_memory

    block = shared_memory.SharedMemory(name=name)
    sum(block.buf[::4096])
    ready.release()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    block.close()


def flow_summary(*, used: int = 90, tuned: float = 0.6) -> dict[str, object]:
    phases = {"prepare": 0.5, "run": 2.0, "validate": 1.0, "commit": 0.25, "record": 0.25}
    stage = {"rejected": 0, "repeated": 0, "reused": False, "seconds": phases}
    return {
        "startup_s": 3.0,
        "extra_s": {"tracking_open": 1.5},
        "stages": [
            {**stage, "stage": "ingest", "rows_in": 100, "rows": 95},
            {**stage, "stage": "clean", "rows_in": 95, "rows": used},
        ],
        "metrics": {"rmse": {"mean": 1.2, "baseline": 0.7, "tuned": tuned}, "mae": {}},
    }


NOTEBOOK = {"rows": {"in": 100, "bad": 5, "repeated": 5, "clean": 90}, "rmse": {"tuned": 0.59}}


def test_pipeline_refuses_to_time_sides_that_use_different_rows(tmp_path: Path) -> None:
    job = pipeline.Job(tmp_path, 2, tmp_path)
    with pytest.raises(RunError, match="ours 89 of 100, the notebook 90 of 100"):
        pipeline.check(job, flow_summary(used=89), {"notebook": NOTEBOOK})


def test_pipeline_says_plainly_when_our_model_is_worse(tmp_path: Path) -> None:
    job = pipeline.Job(tmp_path, 2, tmp_path)
    good = pipeline.check(job, flow_summary(tuned=0.60), {"notebook": NOTEBOOK})
    bad = pipeline.check(job, flow_summary(tuned=0.65), {"notebook": NOTEBOOK})
    assert "0.6000 against the notebook's 0.5900" in good
    assert "within 1.05" in good
    assert "WORSE THAN 1.05" in bad


def test_breakdown_adds_up_to_the_wall_time() -> None:
    parts = pipeline.breakdown(flow_summary(), wall_s=15.0)
    assert parts["costs_s"] == {
        "startup": 4.0, "compute": 4.0, "validation": 2.0, "commit": 0.5, "tracking": 2.0, "other": 2.5
    }  # fmt: skip
    assert sum(parts["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert parts["stages_s"] == {"ingest": 4.0, "clean": 4.0}
    assert parts["per_row_us"]["all"] == pytest.approx(15e6 / 90, abs=0.01)


def test_a_side_that_fails_shows_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exit status 3:\nthe disk is full") as error:
        run_command(["-c", "import sys; print('the disk is full'); sys.exit(3)"], tmp_path)
    assert "-c" in error.value.where


@pytest.mark.slow
def test_notebook_learns_from_the_past_and_accounts_for_every_row(tmp_path: Path) -> None:
    import polars as pl

    raw = made_up_reviews(500)
    raw.write_parquet(tmp_path / "part-0.parquet")
    out, summary_file = tmp_path / "out", tmp_path / "summary.json"
    command = [sys.executable, "-m", "benchmarks.peers.notebook", str(tmp_path), "--out", str(out), "--trials", "2"]
    subprocess.run([*command, "--json", str(summary_file)], check=True, cwd=PROJECT)
    summary = json.loads(summary_file.read_text())

    assert {k: summary["rows"][k] for k in ("in", "bad", "repeated", "clean")} == {
        "in": 502, "bad": 1, "repeated": 1, "clean": 500
    }  # fmt: skip
    assert summary["rmse"]["tuned"] < summary["rmse"]["mean"] / 2
    table = pl.read_parquet(out / "features.parquet")
    for row in table.iter_rows(named=True):
        past = table.filter(pl.col("item_id") == row["item_id"], pl.col("day") < row["day"])["rating"]
        assert row["item_count"] == len(past)
        assert row["item_mean"] == (pytest.approx(past.mean()) if len(past) else None)
    counts = dict(pl.read_parquet(out / "word_counts.parquet").select("token", "count").iter_rows())
    assert counts["everyone’s"] == 500
    assert "br" not in counts
    assert "https" not in counts
    tokens = pl.read_parquet(out / "tokens.parquet").sort("review_id")
    # "Hi\nI hated it & everyone’s 0" without tag, entity and URL: the ids OpenAI's GPT-2 gives it.
    assert tokens["input_ids"][0].to_list()[:6] == [17250, 198, 40, 16563, 340, 1222]


def made_up_reviews(rows: int) -> object:
    """US customer reviews whose words tell their rating, and two rows more: one without a user, one repeated."""
    import polars as pl

    verdicts = ["hated", "disliked", "tolerated", "liked", "loved"]
    stars = [i % 5 + 1 for i in range(rows)]
    frame = pl.DataFrame(
        {
            "review_id": [f"R{i:05}" for i in range(rows)],
            "customer_id": [f"u{i % 61}" for i in range(rows)],
            "product_id": [f"p{i % 11}" for i in range(rows)],
            "star_rating": pl.Series(stars, dtype=pl.Int32),
            "review_headline": ["Hi"] * rows,
            "review_body": [
                f"I {verdicts[s - 1]}<br />it &amp; everyone’s {i}  https://example.org/{i}"
                for i, s in enumerate(stars)
            ],
            "review_date": [date(2010, 1, 1) + timedelta(days=i // 3) for i in range(rows)],
            "verified_purchase": ["Y"] * rows,
            "product_category": ["Books"] * rows,
        }
    )
    nobody = frame.head(1).with_columns(review_id=pl.lit("R9"), customer_id=pl.lit(None, dtype=pl.String))
    again = frame.head(1).with_columns(review_id=pl.lit("R8"))
    return pl.concat([frame, nobody, again])
