"""The command report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from interp.cli.common import app, path_argument, path_option
from interp.cli.early import REPORT, say_report


@app.command()
def report(
    run: Annotated[Path, path_argument(help="A folder of interp study or interp figure1, finished or not.")],
    out: Annotated[Path | None, path_option(help=f"The file to write; RUN/{REPORT} by default.")] = None,
) -> None:
    """One page of what a study found, what it shows and what it does not, from its records; no model is needed."""
    say_report(run, out=out)
