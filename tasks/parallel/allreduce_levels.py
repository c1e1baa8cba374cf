"""All-reduce on two levels: shared memory within a node, the network between nodes.

    node 0   [0 1 2 3]   tree to 0        0 \\                 broadcast from 0
    node 1   [4 5 6 7]   tree to 4        4  }  ring            broadcast from 4
    node 2   [8 9]       tree to 8        8 /                  broadcast from 8

With L ranks a node on N nodes: 2 ceil(log2 L)(alpha_s + n beta_s) in shared memory, and 2 (N - 1) alpha + 2 (N - 1)/N n
beta on the network, where one rank of each node talks. The flat ring takes 2 (W - 1) steps and crosses the network in
every one of them. (NCCL's and Horovod's hierarchical all-reduce; Jia et al., Highly scalable deep learning training
system, 2018, section 3.3.)
"""

from __future__ import annotations

import numpy as np

from tasks.core.errors import UserError
from tasks.parallel.allreduce_ring import ring
from tasks.parallel.allreduce_trees import broadcast, reduce
from tasks.parallel.comm import Array, Comm
from tasks.parallel.comm_part import SubComm


class TwoLevels(SubComm):
    """All ranks of `network`, with those of this rank's node (over `shared`) and the first of each node apart.

    per_node: ranks a node; neighbours share one, the last node may have fewer. `shared` and `network` have the same
    ranks and may be the same group.
    """

    def __init__(self, shared: Comm, network: Comm, per_node: int) -> None:
        if per_node < 1:
            raise UserError(f"{per_node} ranks a node", where="two levels", fix="1 or more")
        world = range(network.world_size)
        super().__init__(network, world)
        first = network.rank // per_node * per_node
        self.local = SubComm(shared, world[first : first + per_node])
        self.between = SubComm(network, world[::per_node]) if network.rank == first else None


def hierarchical(comm: Comm, flat: Array, combine: np.ufunc) -> None:
    """All-reduce in place: a tree in each node, a ring of the nodes. Raises UserError for a group of one level."""
    if not isinstance(comm, TwoLevels):
        raise UserError("the group has one level", where="hierarchical all-reduce", fix="TwoLevels(shared, network, …)")
    comm.local.phase = f"{comm.phase}, in a node"
    reduce(comm.local, flat, combine)
    if comm.between is not None:
        comm.between.phase = f"{comm.phase}, between nodes"
        ring(comm.between, flat, combine)
    broadcast(comm.local, flat)
