"""Tokenize clean reviews to GPT-2 ids: our stage against the two libraries that people call instead.

In: clean reviews (benchmarks/text_input.py). Out: for each input file one of review_id, input_ids, n_tokens. Ours is
the stage tokenize through the stage runner, into an empty store, in a running Ray session. Its time includes starting
actors, hashing, syncing and committing, but not validation, which no peer does. The peers (benchmarks/peers/text.py)
run in their own processes, with as many threads as we have logical CPUs, timed inside, after imports and loading the
vocabulary.

    raymill bench tokenize [--size MB] [--input FOLDER] [--workers W] [--json FILE|-]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Case, SelfTimed, Timed
from benchmarks.peers import text
from benchmarks.text_input import Job, Output, measure_input, peer, run_stage_alone, speeds, start
from tasks.core.part_files import read_part


def ours(job: Job) -> SelfTimed:
    from tasks.stages.tokenize import tokenize

    return run_stage_alone(job, tokenize, job.settings.tokenize)


def check(job: Job, ours: Output, peers: Mapping[str, Output]) -> str:
    """Compare every id of every review. Raises AssertionError naming a review that differs."""
    tokens = 0
    for name, output in peers.items():
        here = len(ours.files), len(output.files)
        assert here == (job.text.about.files,) * 2, f"{here[0]} and {here[1]} files, ours and {name}"
    for index, file in enumerate(ours.files):
        mine = read(file)
        for name, output in peers.items():
            compare(mine, read(output.files[index]), f"{file.name}, ours and {name}")
        tokens += mine["n_tokens"].sum()
    return (
        f"{tokens:,} tokens of {job.text} with {job.text.about.pre_tokens:,} different pre-tokens: every id equal to "
        + ", ".join(peers)
    )


def read(file: Path) -> Any:
    return read_part(file, ["review_id", "input_ids", "n_tokens"])


def compare(ours: Any, theirs: Any, who: str) -> None:
    """Raise AssertionError unless the rows are the same, in the same order."""
    if ours.equals(theirs):
        return
    assert len(ours) == len(theirs), f"{len(ours):,} and {len(theirs):,} reviews in {who}"
    for column in ours.columns:
        unlike = (ours[column] != theirs[column]).arg_true()
        if len(unlike):
            row, review = int(unlike[0]), ours["review_id"][int(unlike[0])]
            values = ours[column][row], theirs[column][row]
            shown = " and ".join(str(v.to_list() if column == "input_ids" else v)[:200] for v in values)
            raise AssertionError(f"{column} of {len(unlike):,} reviews differ in {who}; the first: {review}, {shown}")
    raise AssertionError(f"column types differ in {who}: {ours.schema} and {theirs.schema}")


def details(job: Job, runs: Mapping[str, Sequence[Timed]]) -> dict[str, dict[str, Any]]:
    return speeds(job, runs, tokens=sum(read(file)["n_tokens"].sum() for file in runs["ours"][-1].output.files))


CASE = Case(
    name="tokenize",
    size_of="megabytes",
    default_size=200,
    prepare=start,
    ours=ours,
    peers={name: peer("benchmarks.peers.text", name) for name in text.PEERS},
    check=check,
    measure_input=measure_input,
    details=details,
    takes_input=True,
    check_is_warm_up=True,
    skip=lambda _size: text.without("tiktoken", text.PEERS),
)
