"""What `algorithm="auto"` picks: the fastest all-reduce by kind of group, world size and bytes, as measured.

Of 2 and 8 ranks on two idle cores (docs/lab/allreduce.md). With 8 ranks every message costs a share of a core that
others want, so the fewest messages in all win for small arrays: naive sends 2 (W - 1), the exchange W log2 W. Two ranks
have a core each, and the exchange is one step. For larger worlds, which were not measured, the cost model of ranks with
a core each decides. A group through the object store
takes the ring, as the pipeline does; threads, which only tests use, share memory.
"""

from __future__ import annotations

ANY = 1 << 62
# kind of group: (largest world, largest bytes, algorithm); the first row that fits counts.
TABLE: dict[str, list[tuple[int, int, str]]] = {
    "shared memory": [
        (2, 512 << 10, "exchange"),
        (8, 512 << 10, "naive"),
        (ANY, 4 << 10, "exchange"),
        (ANY, ANY, "direct"),
    ],
    "gloo": [
        (8, 2 << 20, "naive"),
        (8, ANY, "gloo"),
        (ANY, 64 << 10, "exchange"),
        (ANY, ANY, "rabenseifner"),
    ],
    "objects": [(ANY, ANY, "ring")],
    "threads": [(ANY, ANY, "direct")],
}


def fastest(kind: str, world_size: int, nbytes: int) -> str:
    return next(name for world, size, name in TABLE[kind] if world_size <= world and nbytes <= size)
