"""Where to edit: the report, the scores by layer, and the table of both."""

from __future__ import annotations

from functools import partial

from interp.display.description import Description, Table, describe
from interp.editing.measured import WhereToEdit
from interp.plots.scores_by_layer import scores_by_layer
from interp.plots.where import HEADER, where_report, where_rows
from interp.study.where_found import WhereResults

__all__: list[str] = []


@describe.register
def _found(found: WhereToEdit) -> Description:
    heading, *lines = where_report(found)
    return Description(heading=heading, lines=lines, tables=[_table(found)])


@describe.register
def _results(results: WhereResults) -> Description:
    heading, *lines = where_report(results.found, results.seconds)
    figure = partial(scores_by_layer, results.by_layer, results.strengths)
    return Description(heading=heading, lines=lines, figure=figure, tables=[_table(results.found)])


def _table(found: WhereToEdit) -> Table:
    return Table(header=HEADER, rows=where_rows(found), left=2)
