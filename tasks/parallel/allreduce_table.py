"""What `algorithm="auto"` picks: the fastest all-reduce by kind of group, world size and bytes, as measured."""

from __future__ import annotations

ANY = 1 << 62
# kind of group: (largest world, largest bytes, algorithm); the first row that fits counts.
TABLE: dict[str, list[tuple[int, int, str]]] = {
    "shared memory": [(ANY, ANY, "direct")],
    "threads": [(ANY, ANY, "direct")],
    "gloo": [(ANY, 64 << 10, "exchange"), (ANY, ANY, "rabenseifner")],
    "objects": [(ANY, ANY, "exchange")],
}


def fastest(kind: str, world_size: int, nbytes: int) -> str:
    return next(name for world, size, name in TABLE[kind] if world_size <= world and nbytes <= size)
