"""`raymill rehearse`: past nights again, and what other gates would have promoted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flows.cli.options import InputOption, JsonOption, SetOption, console, write_json

if TYPE_CHECKING:
    from flows.rehearse.nights import Told

LEAN = "lean"  # the profile, unless another one is named
SHOWN = 12  # months of the table; the page has all


def rehearse(
    nights: Annotated[int | None, typer.Option(min=1, help="How many nights; the setting arrivals.nights.")] = None,
    input: InputOption = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset profile, as for run.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the rehearsal's snapshots and result; data/rehearsal if not given.")
    ] = None,
    overrides: SetOption = None,
    profile: Annotated[
        str, typer.Option("--profile", help="A settings profile in conf/profiles; none: conf/base.yaml alone.")
    ] = LEAN,
    json_file: JsonOption = None,
) -> None:
    """Replay the reviews by the time they arrived, night by night, and compare settings of the gates.

    Each night makes a model from what had arrived. The result says what each setting would have promoted, and the loss
    that the champions had on the reviews of each month. Runs and the registry are not touched. To resume a killed
    rehearsal, start it again.
    """
    from flows.graph import find_given
    from flows.rehearse import page, place
    from flows.rehearse.nights import Rehearsal
    from flows.rehearse.result import result_of
    from tasks.settings import load_settings

    view_console = Console(stderr=True) if json_file == "-" else console
    data = {k: v for k, v in (("input", input), ("dataset", dataset)) if v}
    given = [*(overrides or []), *([f"arrivals.nights={nights}"] if nights else [])]
    settings = load_settings(profile=None if profile == "none" else profile, overrides=given, data=data)
    variants = settings.rehearse.variants(settings.registry.gates)
    folder = place.check_place(settings, out)
    raw = find_given(settings, None)  # a wrong input fails here, before anything starts
    with place.opened(settings, folder) as own:
        told = []
        for night in Rehearsal(own, raw):
            told.append(night.night)
            view_console.print(line_of(night, own.arrivals.nights), highlight=False, markup=False, soft_wrap=True)
        result = result_of(told, variants)
        written = page.write(folder, result)
    print_result(view_console, result)
    view_console.print(f"page: {written}", highlight=False, markup=False, soft_wrap=True)
    write_json(json_file, result)


def line_of(told: Told, nights: int) -> str:
    night, (ran, stages) = told.night, told.made
    did = f"{ran} of {stages} stages ran, {told.seconds:.1f} s" if stages else "finished before"
    return (
        f"night {night.number} of {nights}, until {night.until[:10]}: {night.arrived:,} of {night.reviews:,} reviews, "
        f"loss {night.losses[night.number]:.4f} on {night.rows:,} test reviews; {did}"
    )


def print_result(view_console: Console, result: dict[str, Any]) -> None:
    """Print a row for each setting of the gates, then the last months."""
    from flows.cli.tables import compact_table

    title = f"{result['metric_name']} of the champions on what arrived afterwards"
    table = compact_table(title, {"gates": "left", "promotions": "right", "reviews": "right", "loss": "right"})
    for name, found in result["gates"].items():
        table.add_row(name, str(found["promotions"]), f"{found['rows']:,}", _number(found["loss"]))
    view_console.print(table)
    by_month = {name: {m["month"]: m["loss"] for m in found["months"]} for name, found in result["gates"].items()}
    every = sorted({month for months in by_month.values() for month in months})
    names = list(by_month)
    months = compact_table("", {"month": "left", **dict.fromkeys(names, "right")})
    for month in every[-SHOWN:]:
        months.add_row(month, *(_number(by_month[name].get(month)) for name in names))
    view_console.print(months)
    if len(every) > SHOWN:
        view_console.print(f"{len(every) - SHOWN} earlier months are on the page", highlight=False)


def _number(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"
