"""Packed tokens in, how well a causal transformer predicts the next one out: perplexity by slice of the reviews.

The reader of what `pack-tokens` writes, in either format. A transformer (our own, or a GPT-2 from a folder) learns to
predict each id of a block from those before it, on Ray Train's workers and rows of Ray Data, in the loop of
tasks/deep/loop.py. A share of the blocks, drawn by their numbers, is held out: some to stop early by, others for the
test. Each test token belongs to a review, so its loss counts in the review's slices.

Out: the table of `slices.SLICES`; beside it the table `curves` and the model, `next_token.safetensors` and
`next_token.json`. Perplexity is exp of the mean loss; `of_frequencies` is that of the tokens' frequencies alone, what a
model has to beat. A model of our own knows the `vocabulary` most frequent ids and takes all others for one, so its
perplexity is of texts in which they are one.

    raymill run --until next-token --set pack_tokens.enabled=true --set next_token.enabled=true
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.errors import InputError
from tasks.core.snapshot_files import part_name
from tasks.core.snapshots import Snapshot, SnapshotWriter
from tasks.core.stage import stage
from tasks.engines import cluster
from tasks.stages.next_token.blocks import ranges_of, read_blocks
from tasks.stages.next_token.settings import NextTokenConfig
from tasks.stages.next_token.slices import SLICES, measured
from tasks.stages.text_model.stage import LIBRARIES, Watch, check_installed, placed

CURVES = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),  # done
        pa.field("loss", pa.float64()),  # of the step's tokens; null where it was skipped
        pa.field("validation", pa.float64()),  # null between evaluations
    ]
)


def model_files(config: NextTokenConfig) -> list[Path]:
    """Return the files of the model to fine-tune."""
    if config.pretrained is None:
        return []
    from tasks.stages.text_model import pretrained

    return pretrained.files_of(config.pretrained)


@stage(
    version=1,
    config=NextTokenConfig,
    unit="slices",
    libraries=("pyarrow", "polars", "numpy", *LIBRARIES, "transformers"),
    reads=model_files,
)
def next_token(
    reviews: Snapshot, tokens: Snapshot, packed: Snapshot, config: NextTokenConfig, out: SnapshotWriter
) -> None:
    check_installed("next_token")
    import ray

    from tasks.engines import ray_torch
    from tasks.stages.next_token import worker
    from tasks.stages.text_model import pretrained
    from tasks.stages.text_model.worker import PROGRESS

    facts, counts = packed.facts, packed.manifest.counts
    if config.context >= facts["block_size"]:
        raise InputError(
            f"next_token.context is {config.context:,}, but a block has {facts['block_size']:,} ids",
            where="next-token",
            fix="lower next_token.context, or raise pack_tokens.block_size",
        )
    if counts["blocks"] == 0:
        raise InputError("there are no packed tokens", where="next-token", fix="give reviews with texts")
    if config.pretrained:
        made = tokens.path("tokenizer.json").read_text()
        pretrained.check(config.pretrained, made, facts["vocabulary"], config.context, "next_token")
        module, _ = pretrained.load_causal(config.pretrained)
        pretrained.check_length(module, config.context, "next_token.context")
    device, ranks = placed(config, "next_token", out.scratch)
    job = worker.NextTokenJob(
        config=config,
        vocabulary=facts["vocabulary"],
        size=facts["block_size"],
        total=counts["blocks"],
        written=counts["documents"] + counts["tokens"],
        folder=out.scratch,
        device=device,
        own_session=cluster.is_own(),
    )
    learned: worker.Learned = ray_torch.run(
        ray_torch.Job(
            work=worker.work,
            config={"job": job},
            files=ranges_of(packed),
            read=read_blocks,
            read_with={},
            workers=ranks,
            device=job.device,
            folder=out.scratch,
            watch=Watch(out, out.scratch / PROGRESS, [config.steps * config.batch], "rows"),
            fix="check next_token; if memory ends, lower next_token.batch, context or vocabulary",
        )
    )
    tests = sorted(out.scratch.glob("test-*.npz"))
    table = cluster.gather([ray.remote(measured).remote(reviews.files(), tokens.files(), tests)])[0]
    out.write_table(part_name(0), table, SLICES)
    write_curves(out, learned)
    out.write_bytes(worker.WEIGHTS, (out.scratch / worker.WEIGHTS).read_bytes())
    shape = {name: value for name, value in learned.shape.items() if isinstance(value, (int, float, str))}
    out.write_bytes("next_token.json", json.dumps(learned.shape, indent=1, default=str).encode())
    every = table.to_pylist()[0]
    out.count(learned=learned.blocks[0], validated=learned.blocks[1], tested=learned.blocks[2], tokens=every["tokens"])
    out.fact(
        perplexity=every["perplexity"],
        of_frequencies=every["of_frequencies"],
        bit_for_bit=job.device == "cpu" and config.threads == 1,
        steps=learned.steps,
        best_step=learned.best_step,
        shape=shape,
    )
    out.note(device=job.device, resumed_from_step=learned.resumed)


def write_curves(out: SnapshotWriter, learned: Any) -> None:
    at = dict(learned.validations)
    points = [
        {"step": i + 1, "loss": None if math.isnan(loss) else loss, "validation": at.get(i + 1)}
        for i, loss in enumerate(learned.losses)
    ]
    out.side_table("curves")
    out.write_table(part_name(0, "curves"), pa.Table.from_pylist(points, schema=CURVES), CURVES)
