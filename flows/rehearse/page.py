"""Write a rehearsal's result: rehearsal.json, decisions.parquet, months.parquet, losses.png and rehearsal.html."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.rehearse.place import MARK
from flows.rehearse.result import tables
from tasks.core.settings import CONF
from tasks.core.whole_files import write_whole
from tasks.engines import plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE, PICTURE = "rehearsal.html", "losses.png"
COLUMNS = {
    "decisions": {
        "gates": pa.string(),
        "night": pa.int32(),
        "until": pa.string(),
        "arrived": pa.int64(),
        "test_rows": pa.int64(),
        "loss": pa.float64(),  # of the night's model on the test rows
        "before": pa.int32(),  # nights whose models were and are champion; null: there is none
        "promoted": pa.bool_(),
        "champion": pa.int32(),
        "failed": pa.string(),  # gates
    },
    "months": {
        "gates": pa.string(),
        "month": pa.string(),
        "rows": pa.int64(),
        "loss": pa.float64(),
        "champions": pa.string(),
    },
}


def write(place: Path, result: Mapping[str, Any]) -> Path:
    """Write all files, the JSON last; returns the page."""
    for (name, columns), rows in zip(COLUMNS.items(), tables(result), strict=True):
        pq.write_table(pa.Table.from_pylist(rows, pa.schema(columns)), place / f"{name}.parquet")
    picture = losses(result)
    write_whole(place / PICTURE, picture)
    write_whole(place / PAGE, render(result, picture))
    write_whole(place / MARK, json.dumps(result, indent=1), synced=True)
    return place / PAGE


def losses(result: Mapping[str, Any]) -> bytes:
    """Draw the champions' loss in each month, a line for each setting of the gates."""
    every = sorted({month["month"] for found in result["gates"].values() for month in found["months"]})

    def draw(ax: Axes) -> None:
        for name, found in result["gates"].items():
            at = {month["month"]: month["loss"] for month in found["months"]}
            label = f"{name}: {found['promotions']} promotions"
            ax.plot(range(len(every)), [at.get(month, float("nan")) for month in every], marker=".", label=label)
        step = max(1, len(every) // 10)
        ax.set_xticks(range(0, len(every), step), every[::step])
        ax.set(xlabel="month of arrival", ylabel=result["metric_name"])
        ax.legend(loc="best")

    return plots.png(draw, plots.PAGE)


def render(result: Mapping[str, Any], picture: bytes) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(CONF)
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    every = sorted({month["month"] for found in result["gates"].values() for month in found["months"]})
    by_month = {name: {month["month"]: month for month in found["months"]} for name, found in result["gates"].items()}
    return page.get_template("rehearsal.html.j2").render(
        result=result,
        months=every,
        by_month=by_month,
        picture=base64.b64encode(picture).decode(),
        css=(CONF / "report.css").read_text(),
    )
