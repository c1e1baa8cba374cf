"""The page of `benchmarks.partition_matrix`: its pictures, and the table behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

COLUMNS = {
    "work": "work",
    "strategy": "strategy",
    "workers": "workers",
    "chunk_rows": "rows per chunk",
    "median_s": "s, median",
    "min_s": "min",
    "max_s": "max",
    "rows_per_s": "rows per s",
    "chunk_p50_s": "chunk p50, s",
    "chunk_p95_s": "p95",
    "chunk_p99_s": "p99",
    "workers_cpu_s": "CPU s",
    "peak_rss_bytes": "peak memory, bytes",
    "balance": "busiest over mean",
    "speed_up": "speed-up",
    "efficiency": "efficiency",
    "karp_flatt": "Karp-Flatt",
}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Partitioned scoring</title>
<style>
body { font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
img { max-width: 100% } table { border-collapse: collapse; font-size: 13px } div { overflow-x: auto }
td, th { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #e6e6e6; white-space: nowrap }
</style>
<h1>Partitioned scoring</h1>
<p>{{ "{:,}".format(rows) }} rows; {{ machine.cpu }}, {{ machine.cores }} cores, load {{ machine.load_average }}
at the end of the measurement.</p>
{% for name in pictures %}<p><img src="{{ name }}" alt="{{ name }}"></p>{% endfor %}
<h2>Every cell</h2>
<div><table><tr>{% for title in columns.values() %}<th>{{ title }}</th>{% endfor %}</tr>
{% for cell in cells %}<tr>{% for name in columns %}<td>{{ cell[name] | shown }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<h2>Amdahl's law, fitted to workers with a core each</h2>
<div><table><tr><th>work</th><th>strategy</th><th>rows per chunk</th><th>alone, s</th><th>serial fraction</th></tr>
{% for fit in fits %}<tr>{% for value in fit.values() %}<td>{{ value | shown }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
</html>
"""


def page(
    cells: Sequence[Mapping[str, Any]],
    fits: Sequence[Mapping[str, Any]],
    pictures: Sequence[str],
    rows: int,
    machine: Mapping[str, Any],
) -> str:
    """Return the page; pictures are files beside it."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["shown"] = _shown
    return environment.from_string(PAGE).render(
        cells=cells, fits=fits, pictures=pictures, rows=rows, machine=machine, columns=COLUMNS
    )


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
