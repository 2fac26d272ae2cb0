"""The command where: which layers to edit in a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Base,
    Cases,
    Device,
    DType,
    Facts,
    Json,
    Method,
    Model,
    Out,
    app,
    digest,
    load,
    path_option,
    slug,
)
from interp.cli.console import messages, print_json, screen
from interp.cli.ending import keeping
from interp.cli.progress import bar
from interp.editing.methods import DEFAULT_EDITOR

if TYPE_CHECKING:
    from interp.study.where_found import WhereResults

Budget = Annotated[
    str,
    typer.Option(
        help="small, medium or large: how many facts, cases and layers (SmolLM2-135M on one core: 26 minutes; by their"
        " units roughly 70 and 160)."
    ),
]


@app.command()
def where(
    model: Model = "smollm2-135m",
    base: Base = None,
    method: Method = DEFAULT_EDITOR,
    budget: Budget = "small",
    facts: Facts = "builtin",
    cases: Cases = "builtin",
    corpus: Annotated[str, path_option(help="Of the second moments: self, a text file or hub:NAME:CONFIG.")] = "self",
    corpus_tokens: Annotated[int | None, typer.Option(help="Its tokens; by default enough for the model.")] = None,
    seed: Annotated[int, typer.Option(help="Of the cases' order, contexts, corpus and intervals.")] = 0,
    out: Out = None,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Which layers to edit in a model: locate, try an editor from coarse to fine, name the best and those like it."""
    with bar("starting"):
        from interp.editing.corpora import Corpus
        from interp.facts.case_files import load_cases
        from interp.facts.fact_files import load_facts
        from interp.study.where import where_to_edit
        from interp.study.where_found import WHERE_FILE, read_where
        from interp.study.where_settings import WhereSettings

        text = Corpus(source=corpus, tokens=corpus_tokens, seed=seed)
        settings = WhereSettings(editor=method, budget=budget, corpus=text, seed=seed)
        known, to_edit = load_facts(facts), load_cases(cases)
        if not corpus.startswith("hub:"):
            text.revision()  # a missing file is found now, not after the locating
        place = out or Path("runs") / f"where-{slug(model)}-{digest([repr(settings), facts, cases, dtype])}"
    network = load(model, device, dtype, base)
    with keeping(place), bar("where to edit", units="units") as advance:
        where_to_edit(network, known, to_edit, place, settings, sources=(facts, cases), progress=advance)
    _show(read_where(place), place, place / WHERE_FILE, as_json)


def _show(results: WhereResults, place: Path, file: Path, as_json: bool) -> None:
    """The report in the terminal, and its files."""
    from interp import plots
    from interp.results.record import write_atomically

    found = results.found
    plots.save_figure(plots.scores_by_layer(results.by_layer, results.strengths), place / "where")
    texts = {
        "where.md": plots.where_table_markdown(found, results.seconds),
        "where.csv": plots.scores_by_layer_csv(results.by_layer, results.strengths),
    }
    for name, text in texts.items():
        write_atomically(place / name, text.encode())
    if as_json:
        print_json(_data(results, file))
        return
    screen.print(str(results), soft_wrap=True, markup=False)
    messages.print(f"wrote {file}: interp edit --where {file}; report and figure beside it", soft_wrap=True)


def _data(results: WhereResults, file: Path) -> dict[str, Any]:
    from dataclasses import asdict

    found = results.found
    derived = {"not_told": found.not_told, "worse_from": found.worse_from, "seconds": results.seconds}
    return {**asdict(found), **derived, "file": str(file)}
