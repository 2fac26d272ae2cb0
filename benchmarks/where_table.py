"""The table of ``docs/where-to-edit.md``, from the files that ``interp where`` wrote and the package has.

python -m benchmarks.where_table       # writes it between its two marks
"""

from __future__ import annotations

from pathlib import Path

from interp.editing.measured import shipped
from interp.plots import where_models_markdown

PAGE = Path(__file__).parents[1] / "docs" / "where-to-edit.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NONE = "No model has been measured yet."


def with_table(page: str) -> str:
    """The page with the table of what the package has."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    measured = list(shipped())
    table = where_models_markdown(measured) if measured else NONE
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
