"""Shares of a study: the option --shard, what a shard says at its end, and the command merge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.common import app, path_argument, path_option
from interp.cli.console import messages

if TYPE_CHECKING:
    from interp.results.run_folder import RunFolder
    from interp.study.shard import Shard

ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="I/N: the I-th of N shares, counted from 1, as in job arrays; each share is a command of its own, in one"
        " folder or in several that interp merge puts together.",
    ),
]
TRY_AGAIN = 75
"""The exit code of a command that can go on when others have done their part (EX_TEMPFAIL of sysexits.h)."""
SHOWN = 3


@app.command()
def merge(
    runs: Annotated[list[Path], path_argument(help="Run folders with the same settings.")],
    out: Annotated[Path, path_option(help="The folder to write, new or one with the same settings.")],
) -> None:
    """Put run folders of shards together: checked, and every record copied whole or not at all."""
    from interp.results.merging import merge_runs
    from interp.study.left import editing_left, locating_left

    run = merge_runs(runs, out)
    found = {"": run, "edits/": type(run)(run.path / "edits")}
    for name, part in found.items():
        records = len(list((part.path / "records").glob("[!.]*.safetensors")))
        if (part.path / "selection.json").exists():
            left = editing_left(part) if name else locating_left(part)
            messages.print(f"{part.path}: {records} records{_missing(left)}", soft_wrap=True)


def all_is_done(run: RunFolder, shard: Shard | None, left: Sequence[str]) -> bool:
    """Whether figures can be drawn; if a shard is done and others are not, that is said."""
    if shard is None or not left:
        return True
    messages.print(
        f"shard {shard} is done in {run.path}{_missing(left)}; the last shard draws the figures, or --from does",
        soft_wrap=True,
    )
    return False


def check_located(run: RunFolder, shard: Shard | None, left: Sequence[str]) -> None:
    """End a shard that would choose layers before all facts are located.

    Raises:
        typer.Exit: With :data:`TRY_AGAIN`.
    """
    if shard is not None and left:
        messages.print(
            f"shard {shard} has located its facts in {run.path}{_missing(left)}; where to edit is chosen when all are"
            " located: the same command goes on then",
            soft_wrap=True,
        )
        raise typer.Exit(TRY_AGAIN)


def _missing(left: Sequence[str]) -> str:
    """What is missing, as the end of a sentence."""
    if not left:
        return ", none is missing"
    more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
    return f"; missing: {', '.join(left[:SHOWN])}{more}"
