"""What parallel training should cost: memory by rank, bytes sent, bubbles, and a model of 8 to 1,024 GPUs.

    python -m benchmarks.deep_arithmetic

Formulas: Rajbhandari and others, ZeRO, 2020, section 5; Shoeybi and others, Megatron-LM, 2019; Huang and others, GPipe,
2019; Narayanan and others, Efficient Large-Scale Language Model Training on GPU Clusters, 2021, section 3. Rings: an
all-reduce of b bytes over R ranks sends 2 (R - 1) / R b from each, a gather or a reduce-scatter half of that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.deep.passes import passes

FLOAT, MOMENTS = 4, 2


def zero_bytes(parameters: int, replicas: int, stage: int) -> dict[str, float]:
    """Return a rank's bytes between steps, float32 and AdamW. ZeRO 2 keeps parameters in parts too, as fully_shard
    does; the gradients are those after the backward pass."""
    whole = FLOAT * parameters
    return {
        "parameters": whole / (replicas if stage >= 2 else 1),
        "gradients": whole / (replicas if stage >= 2 else 1),
        "optimizer": MOMENTS * whole / (replicas if stage >= 1 else 1),
    }


def data_bytes(parameters: int, replicas: int, stage: int, *, gloo: bool = False) -> float:
    """Return what a rank sends in a step: gradients, and parameters that others need.

    gloo: its reduce-scatter is an all-reduce of which a rank keeps its part (torch 2.13).
    """
    once = (replicas - 1) / replicas * FLOAT * parameters
    # An all-reduce is a reduce-scatter and a gather. ZeRO 1 does it and broadcasts what the owners updated.
    return ({0: 2, 1: 3, 2: 2, 3: 3}[stage] + (gloo and stage >= 2)) * once


def tensor_bytes(layers: int, tokens: int, width: int, slices: int) -> float:
    """Return what a rank sends in a step: two all-reduces forward and two backward a layer."""
    return 4 * layers * 2 * (slices - 1) / slices * FLOAT * tokens * width


def bubble(stages: int, micro_batches: int) -> float:
    """Return the share of a step in which a stage waits, with GPipe and with 1F1B."""
    return (stages - 1) / (micro_batches + stages - 1)


def bubble_of(
    schedule: str, forward: Sequence[float], backward: Sequence[float], micro_batches: int, handover: float = 0.0
) -> float:
    """Return the share of a step in which stages wait, on average. Stages that take the same give `bubble`.

    forward, backward: seconds of a micro-batch, by stage. handover: seconds from when a stage asks for a tensor that is
    there, having nothing left to compute, until it has it.
    """
    stages = len(forward)
    seconds = {"forward": forward, "backward": backward}
    left = [deque(passes(schedule, stage, stages, micro_batches)) for stage in range(stages)]
    ended: dict[tuple[str, int, int], float] = {}
    free = [0.0] * stages
    while any(left):
        for stage, order in enumerate(left):
            while order:
                kind, number = order[0]
                source = stage - 1 if kind == "forward" else stage + 1
                given = 0 <= source < stages
                if given and (kind, number, source) not in ended:
                    break
                order.popleft()
                start = max(free[stage], ended[kind, number, source]) + handover if given else free[stage]
                free[stage] = ended[kind, number, stage] = start + seconds[kind][stage]
    return 1 - micro_batches * (sum(forward) + sum(backward)) / (stages * max(free))


@dataclass(frozen=True)
class Cluster:
    """Assumptions. flops: of a GPU in bfloat16. busy: the share of it that a kernel of these sizes reaches. Bytes a
    second of a GPU: `node` to those in its node, `network` to others. hidden: the share of the gradients' sending that
    the backward pass covers. latency_s: of one step of a ring over the network."""

    flops: float = 400e12
    busy: float = 0.5
    gpus_a_node: int = 8
    node: float = 300e9
    network: float = 25e9
    hidden: float = 0.7
    latency_s: float = 10e-6


@dataclass(frozen=True)
class Model:
    """A decoder of 7 billion parameters. bytes_sent: of a gradient (bfloat16). step_tokens: over all GPUs, however
    many there are."""

    parameters: float = 7e9
    layers: int = 32
    width: int = 4096
    length: int = 2048
    step_tokens: float = 4 * 2**20
    bytes_sent: int = 2


def step_seconds(gpus: int, tensor: int, pipeline: int, model: Model, cluster: Cluster) -> dict[str, float]:
    """Return a step's seconds by what they go to. Slices are in a node; stages and replicas are across nodes.

    A micro-batch is one row a replica, so a pipeline has as many as rows; raises ValueError where they do not suffice.
    """
    replicas = gpus // (tensor * pipeline) or 1
    rows = model.step_tokens / model.length / replicas
    if rows < 1 or tensor > cluster.gpus_a_node or replicas * tensor * pipeline != gpus:
        raise ValueError(f"{gpus} GPUs do not fit {tensor} slices, {pipeline} stages and {rows:.1f} rows a replica")
    own = model.parameters / (tensor * pipeline)
    tokens = model.step_tokens / replicas
    compute = 6 * own * tokens / (cluster.flops * cluster.busy)
    activations = model.bytes_sent * tokens * model.width
    sliced = 4 * model.layers / pipeline * 2 * (tensor - 1) / tensor * activations / cluster.node
    computed = compute + sliced
    waiting = computed * (pipeline - 1) / rows  # a bubble of (p-1)/(m+p-1) of the whole is (p-1)/m of the rest
    handed_on = 2 * activations / tensor / cluster.network if pipeline > 1 else 0.0
    link = cluster.node if gpus <= cluster.gpus_a_node else cluster.network
    ring = 2 * (replicas - 1) * (model.bytes_sent * own / replicas / link + cluster.latency_s)
    shown = max(ring * (1 - cluster.hidden), ring - compute * 2 / 3)  # it hides behind the backward pass at most
    parts = {"compute": compute, "slices": sliced, "bubble": waiting, "stages": handed_on, "gradients": shown}
    return {**parts, "all": sum(parts.values())}


def main() -> None:
    model, cluster = Model(), Cluster()
    print(model, cluster, sep="\n")
    print("\n  GPUs  slices  stages  replicas  step s  compute  slices  bubble  stages  gradients  efficiency")
    for gpus in (8, 16, 32, 64, 128, 256, 512, 1024):
        for tensor, pipeline in ((1, 1), (8, 1), (8, 4)):
            try:
                parts = step_seconds(gpus, tensor, pipeline, model, cluster)
            except ValueError:
                continue
            ideal = 6 * model.parameters * model.step_tokens / (gpus * cluster.flops * cluster.busy)
            split = "  ".join(
                f"{parts[name] / parts['all']:{len(name)}.0%}"
                for name in ("compute", "slices", "bubble", "stages", "gradients")
            )
            replicas = gpus // tensor // pipeline
            print(
                f"{gpus:6}  {tensor:6}  {pipeline:6}  {replicas:8}  {parts['all']:6.2f}  {split}"
                f"  {ideal / parts['all']:10.0%}"
            )


if __name__ == "__main__":
    main()
