"""The settings of a text model, its training and its parallelism. No import of torch: settings are read without it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.core.sections import Positive, Section

Share = Annotated[float, Field(ge=0)]
CHANNELS_A_GROUP = 8  # that a convolutional network normalizes together


class EncoderConfig(Section):
    """The shape of the transformer of tasks/deep/encoder.py."""

    vocabulary: Positive = 50257
    positions: Positive = 128
    width: Positive = 64
    heads: Positive = 4
    layers: Positive = 2
    hidden: Positive = 256
    outputs: Positive = 1
    objective: Literal["regression", "next-token"] = "regression"

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class CnnConfig(Section):
    """The shape of the convolutional network of tasks/deep/cnn.py."""

    side: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=32, description="Pictures are cut and shrunk to so many pixels each way"
    )
    channels: Positive = Field(default=16, description="Of the first layer; each layer doubles them")
    layers: Positive = 3

    @model_validator(mode="after")
    def _halves(self) -> CnnConfig:
        if self.side % 2**self.layers:
            raise ValueError(f"{self.layers} layers halve the side, and {self.side} is no multiple of {2**self.layers}")
        if self.channels % CHANNELS_A_GROUP:
            raise ValueError(f"channels {self.channels} must be a multiple of {CHANNELS_A_GROUP}")
        return self


class TrainingConfig(Section):
    """How to train: the same for every model and every way to spread it over ranks."""

    steps: Positive = Field(default=100, description="Optimizer steps, at most; the learning rate decays until then")
    accumulate: Positive = Field(default=1, description="Micro-batches that a rank's part of a step is cut into")
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    warm_up: Annotated[int, Field(ge=0)] = Field(
        default=10, description="Steps in which the learning rate rises to its value"
    )
    decay: Literal["cosine", "linear", "none"] = "cosine"
    weight_decay: Share = 0.01
    clip: Annotated[float, Field(gt=0)] | None = Field(
        default=1.0, description="Greatest norm of all gradients; null: any"
    )
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    recompute: bool = Field(
        default=False, description="Activation checkpointing: compute each layer again when going back"
    )
    on_nan: Literal["skip", "stop"] = Field(
        default="skip", description="What to do with a step whose loss is not finite"
    )
    max_skipped: Annotated[int, Field(ge=0)] = Field(
        default=10, description="Skipped steps in a row before it stops anyway"
    )
    checkpoint_every: Annotated[int, Field(ge=0)] = Field(default=0, description="Steps between checkpoints; 0: none")
    evaluate_every: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps between losses of validation; 0: none"
    )
    patience: Positive | None = Field(default=None, description="Stop after so many evaluations without a lower loss")
    prefetch: Annotated[int, Field(ge=0)] = Field(default=0, description="Batches made ahead by a thread; 0: none")
    seed: Annotated[int, Field(ge=0)] = 0
    peak_flops: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Operations a second that a rank's device can do, for the model FLOPs utilization"
    )

    @model_validator(mode="after")
    def _can_stop_early(self) -> TrainingConfig:
        if self.patience and not self.evaluate_every:
            raise ValueError("patience needs evaluate_every: without evaluations nothing stops early")
        return self


class ParallelConfig(Section):
    """How ranks share the work: world size = data x tensor x pipeline."""

    data: Positive | None = Field(
        default=None, description="Replicas, each with its own rows; null: all ranks that are left"
    )
    zero: Literal[0, 1, 2, 3] = Field(
        default=0, description="What replicas share: 1 optimizer state, 2 gradients as well, 3 parameters as well"
    )
    tensor: Positive = Field(default=1, description="Slices of each layer")
    pipeline: Positive = Field(default=1, description="Groups of layers, one after the other")
    schedule: Literal["gpipe", "1f1b"] = "1f1b"
    micro_batches: Positive = Field(
        default=4, description="Micro-batches in a pipeline, at least as many as its stages"
    )
    bucket_mb: Annotated[float, Field(gt=0)] = Field(
        default=25.0, description="Gradients sent together while others compute"
    )

    @model_validator(mode="after")
    def _fills_the_pipeline(self) -> ParallelConfig:
        if self.pipeline > 1 and self.micro_batches < self.pipeline:
            raise ValueError(f"{self.micro_batches} micro_batches leave some of {self.pipeline} pipeline stages idle")
        return self
