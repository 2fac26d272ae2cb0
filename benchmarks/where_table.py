"""Models that were measured: what ``interp where`` left in its run folders goes into the package and the documentation.

python -m benchmarks.where_table runs/where-a runs/where-b    # their results, reports and figures, and the table anew
python -m benchmarks.where_table                              # the table of ``docs/where-to-edit.md`` alone

A result is the file that the run wrote; nothing is changed in it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from interp.editing.measured import SHIPPED, WhereToEdit, shipped
from interp.plots import where_models_markdown, where_table_markdown
from interp.study.where_found import read_where

PAGE = Path(__file__).parents[1] / "docs" / "where-to-edit.md"
REPORTS = PAGE.parent / "where"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NONE = "No model has been measured yet."


def name_of(found: WhereToEdit) -> str:
    """How its files are called: as the model, without a GGUF file's ending."""
    return Path(found.provenance.model).name.removesuffix(".gguf")


def take(run: Path) -> None:
    """The result of a run, its report and its figure.

    Raises:
        SystemExit: If the package has another measurement of a model of this name.
    """
    results = read_where(run)
    found, figure = results.found, (run / "where.svg").read_bytes()
    name = name_of(found)
    place = SHIPPED / f"{name}.json"
    if place.exists() and (there := _of_what(WhereToEdit.load(place))) != _of_what(found):
        raise SystemExit(
            f"{place.name} is of {there}, the run of {_of_what(found)}: remove it first, or rename the model"
        )
    REPORTS.mkdir(exist_ok=True)
    shutil.copyfile(run / "where.json", place)
    (REPORTS / f"{name}.svg").write_bytes(figure)
    shown = f"![Scores by layer, and where the locators point]({name}.svg)"
    (REPORTS / f"{name}.md").write_text(f"{where_table_markdown(found, results.seconds)}\n{shown}\n", "utf-8")


def _of_what(found: WhereToEdit) -> str:
    return f"{found.editor} on weights {found.provenance.weights_hash} in {found.provenance.dtype}"


def with_table(page: str) -> str:
    """The page with the table of what the package has."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    measured = list(shipped())
    if not measured:
        return f"{before}{BEGIN}\n\n{NONE}\n\n{END}{after}"
    names = ", ".join(f"[{name}](where/{name}.md)" for name in map(name_of, measured))
    return f"{before}{BEGIN}\n\n{where_models_markdown(measured)}\n\nThe reports: {names}.\n\n{END}{after}"


def main(runs: Sequence[str]) -> None:
    for run in runs:
        take(Path(run))
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
