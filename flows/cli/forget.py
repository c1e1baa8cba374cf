"""`raymill forget`: take users out of what runs have written, and keep them out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from flows.cli.options import InputOption, JsonOption, ProfileOption, SetOption, console, write_json

if TYPE_CHECKING:
    from flows.forget.receipt import Receipt


def forget(
    users: Annotated[list[str] | None, typer.Argument(metavar="USER", help="As in the reviews' user_id.")] = None,
    from_file: Annotated[
        str | None, typer.Option("--from", metavar="FILE", help="Users, one a line; - for standard input.")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Then run the pipeline, which makes again what was removed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    input: InputOption = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset profile, as for run; with --run.")] = None,
    overrides: SetOption = None,
    profile: ProfileOption = None,
    json_file: JsonOption = None,
) -> None:
    """Forget users: remove all that runs have made of their reviews, and read these no more.

    Models that learned from them are removed, too, the champion among them. The raw input is not touched. A receipt
    says what was done and what could not be reached. To resume a killed call, start it again.
    """
    from flows.forget.forget import forget
    from flows.forget.receipt import FOLDER
    from tasks.settings import load_settings

    view_console = Console(stderr=True) if json_file == "-" else console
    data = {k: v for k, v in (("input", input), ("dataset", dataset)) if v}
    settings = load_settings(profile=profile, overrides=overrides or [], data=data)
    named = named_users(users or [], from_file)
    if run and not dry_run:
        from flows.graph import find_given

        find_given(settings, None)  # a wrong input fails here, before anything is removed

    def say(line: str) -> None:
        view_console.print(line, highlight=False, markup=False, soft_wrap=True)

    receipt = forget(settings, named, say, dry_run=dry_run)
    for line in lines_of(receipt, len(named), dry_run=dry_run):
        say(line)
    if not dry_run:
        say(f"receipt: {settings.storage.path / FOLDER / f'{receipt.receipt}.json'}")
    if run and not dry_run:
        words = [word for path in input or [] for word in ("--input", path)]
        words += ["--dataset", dataset] if dataset else []
        words += [word for setting in overrides or [] for word in ("--set", setting)]
        receipt.run = _run([*words, *(["--profile", profile] if profile else [])], quiet=json_file == "-")
        receipt.save(settings.storage.path)
    write_json(json_file, vars(receipt))


def named_users(users: list[str], file: str | None) -> list[str]:
    """Return the users given, each once, as ingest would name them. Raises UserError for none, or a wrong file."""
    from tasks.core.errors import InputError, UserError
    from tasks.domain.ids import plain

    named = list(users)
    if file:
        try:
            text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InputError(f"cannot be read: {reason}", where=file, fix="give a text file, a user a line") from None
        named += text.splitlines()
    found = list(dict.fromkeys(name for name in map(plain, named) if name))
    if not found:
        raise UserError("no user is named", where="raymill forget", fix="give users, or --from FILE with one a line")
    return found


def lines_of(receipt: Receipt, users: int, *, dry_run: bool) -> list[str]:
    """Say in short what the receipt says."""
    would = "would be " if dry_run else ""
    unknown = sum(not user["reviews"] for user in receipt.users)
    lines = [f"{receipt.found:,} reviews of {users - unknown:,} user(s)"] if users > unknown else []
    if unknown:
        lines.append(f"{unknown:,} user(s) have no reviews in any snapshot: only the list of users to forget has them")
    if receipt.snapshots:
        stages = list(dict.fromkeys(line["stage"] for line in reversed(receipt.snapshots)))
        lines.append(f"{len(receipt.snapshots):,} snapshots {would}removed: {', '.join(stages)}")
    for model in receipt.models:
        was = f" ({', '.join(model['was'])})" if model["was"] else ""
        lines.append(f"model {model['name']} version {model['version']}{was} {would}removed")
    for line in receipt.predictions:
        where = line.get("folder") or f"score@{line['digest'][:12]}"
        lines.append(f"predictions {where} by version {line['version']}: {line['what']}")
    if receipt.files:
        lines.append(f"{len(receipt.files):,} other files cleaned or removed")
    lines += [f"not reached: {line['what']}: {line['why']}" for line in receipt.not_reached]
    return lines


def _run(words: Sequence[str], *, quiet: bool) -> dict[str, Any]:
    """Run the pipeline with these options; return the new snapshots' digests by stage, and the decision on the model.

    In a process of its own: Prefect, which is imported by now, would not find the server that a run starts. quiet:
    standard output is for the result. Raises Exit with the run's status if it fails.
    """
    import json
    import subprocess
    from tempfile import TemporaryDirectory

    from flows.run.record import RunRecord

    with TemporaryDirectory() as folder:
        file = Path(folder) / "summary.json"
        command = [sys.executable, "-m", "flows.cli.main", "run", "--json", str(file), *words]
        ended = subprocess.run(command, stdout=sys.stderr if quiet else None, check=False)
        if ended.returncode:
            raise typer.Exit(ended.returncode)
        record = RunRecord.from_json(json.loads(file.read_text()))
    digests = {row.stage: row.digest for row in record.stages if row.digest}
    return {"run_id": record.run_id, "digests": digests, "decision": record.decision}
