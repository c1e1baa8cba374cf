"""Who computes what: ranks on a device mesh of pipeline stages, replicas and slices of layers.

    rank = (stage * data + replica) * tensor + slice        world size = pipeline * data * tensor

A slice is beside its others, since they talk in every layer; stages are far apart, since they talk least. Rows are
dealt to replicas (`plan.replica` of `plan.replicas`): all ranks of a replica need the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from tasks.core.errors import InputError
from tasks.deep.settings import ParallelConfig

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

PIPELINE, DATA, TENSOR = AXES = ("pipeline", "data", "tensor")


@dataclass(frozen=True)
class Layout:
    """The lengths of the mesh's axes."""

    pipeline: int
    data: int
    tensor: int

    @classmethod
    def of(cls, config: ParallelConfig, world_size: int) -> Layout:
        """Raises InputError for a world size that the settings do not give, and for what cannot be combined."""
        fixed = config.tensor * config.pipeline
        data = config.data or max(1, world_size // fixed)
        if data * fixed != world_size:
            raise InputError(
                f"{world_size} ranks cannot be {data} replicas x {config.tensor} slices x {config.pipeline} stages",
                where="parallel",
                fix=f"start {data * fixed} ranks, or choose data, tensor and pipeline whose product is {world_size}",
            )
        if config.zero == 1 and config.tensor > 1 and data > 1:
            raise InputError(
                "ZeRO 1 does not know sliced parameters", where="parallel", fix="zero=2, or zero=0, with tensor > 1"
            )
        return cls(config.pipeline, data, config.tensor)


@dataclass(frozen=True)
class Plan:
    """This rank's place. mesh: None in one process."""

    config: ParallelConfig
    layout: Layout
    rank: int
    world_size: int
    mesh: DeviceMesh | None
    device: torch.device

    @property
    def replicas(self) -> int:
        return self.layout.data

    @property
    def replica(self) -> int:
        return self.rank // self.layout.tensor % self.layout.data

    @property
    def stage(self) -> int:
        return self.rank // (self.layout.tensor * self.layout.data)

    @property
    def slice(self) -> int:
        return self.rank % self.layout.tensor

    def axis(self, name: str) -> DeviceMesh:
        assert self.mesh is not None
        return self.mesh[name]

    def group(self, name: str) -> Any:
        """The process group of the ranks that differ from this one in that axis alone."""
        return self.axis(name).get_group()

    def sum_over(self, name: str, tensor: Tensor) -> Tensor:
        """Add up over an axis, in place."""
        if getattr(self.layout, name) > 1:
            distributed.all_reduce(tensor, group=self.group(name))
        return tensor

    def totals(self, *values: float | Tensor, at_stage: int = 0) -> list[float]:
        """Add up numbers of the replicas, as those ranks at a stage know them whose slice is the first. In float64."""
        counts = self.slice == 0 and self.stage == at_stage % self.layout.pipeline
        added = torch.tensor([float(v) if counts else 0.0 for v in values], dtype=torch.float64)
        if self.mesh is not None:
            added = added.to(self.device)
            distributed.all_reduce(added)
        return [float(v) for v in added]


def plan(config: ParallelConfig | None = None, device: str = "cpu") -> Plan:
    """Place this process among the ranks of torch's process group; without one it is alone.

    Every rank calls it. Raises InputError for a world size that the settings do not give.
    """
    config = config or ParallelConfig()
    alone = not (distributed.is_available() and distributed.is_initialized())
    rank, world_size = (0, 1) if alone else (distributed.get_rank(), distributed.get_world_size())
    layout = Layout.of(config, world_size)
    mesh = None
    if not alone:
        lengths = (layout.pipeline, layout.data, layout.tensor)
        mesh = distributed.init_device_mesh(torch.device(device).type, lengths, mesh_dim_names=AXES)
    return Plan(config, layout, rank, world_size, mesh, torch.device(device))
