"""Commands of the whole study: reproduce, study, table1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Base,
    Cases,
    Device,
    DType,
    Facts,
    Figures,
    FluencyTokens,
    Limit,
    Model,
    Out,
    app,
    check_writable,
    count,
    digest,
    locate_settings,
    names_typed,
    path_option,
    slug,
)
from interp.cli.console import messages, screen
from interp.cli.early import Early, say_report
from interp.cli.ending import keeping
from interp.cli.figure1 import draw_figure1, draw_first_fact
from interp.cli.precision import MatmulPrecision, multiplying, say_precision
from interp.cli.progress import bar
from interp.cli.shards import ShardOption, all_is_done, check_located
from interp.cli.sharing import RayOption, Sharing, WorkersOption, at_work, typed_sharing
from interp.editing.methods import EDITORS, editor_title
from interp.errors import OptionError
from interp.locate.methods import LOCATORS
from interp.study import paper

if TYPE_CHECKING:
    from interp.evaluation.summary import TableRow
    from interp.locate.class_average import ClassAverage
    from interp.results.run_folder import RunFolder
    from interp.study.settings import EditStudySettings, LocateSettings

CaseLimit = Annotated[int | None, typer.Option(help="How many edit cases, in their order; 0 for all.")]
Stride = Annotated[int, typer.Option(help="The layer sweep edits every such layer.")]
Preset = Annotated[
    str, typer.Option(help="default (12 facts and cases), or paper (all; its layers of GPT2-XL, contexts, Wikipedia).")
]
Editors = Annotated[
    str, typer.Option(help=f"Which edit, by commas, of {', '.join(EDITORS)}; the first also at every few layers.")
]
Locators = Annotated[
    str | None,
    typer.Option(
        help=f"Which locate, by commas, of {', '.join(LOCATORS)}; each one's layers are edited. By default all locate"
        f" and the layers of {' and '.join(paper.LOCATORS)} are edited, as in the paper."
    ),
]
THE_PAPERS = ",".join(paper.EDITORS)
LIMITS = {"default": 12, "paper": None}


@app.command()
@multiplying
def reproduce(
    model: Model = "smollm2-135m",
    base: Base = None,
    facts: Facts = "builtin",
    cases: Cases = "builtin",
    limit: Limit = None,
    case_limit: CaseLimit = 5,
    stride: Stride = 6,
    fluency_tokens: FluencyTokens = 100,
    shard: ShardOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    out: Out = None,
    figures: Figures = Path("figures"),
    device: Device = None,
    dtype: DType = "float32",
    matmul_precision: MatmulPrecision = "highest",
) -> None:
    """Reproduce the study: locate known facts (Figure 1), edit where each locator points to (Table 1)."""
    settings = _edit_settings("default", case_limit, stride, fluency_tokens, 0, None, None)
    given = _Given(model, base, facts, cases, device, dtype)
    _study(given, locate_settings(limit=limit), settings, typed_sharing(shard, ray, workers), out, figures)


@app.command()
@multiplying
def study(
    model: Model = "smollm2-135m",
    base: Base = None,
    facts: Facts = "builtin",
    cases: Cases = "builtin",
    editors: Editors = THE_PAPERS,
    locators: Locators = None,
    preset: Preset = "default",
    limit: Limit = None,
    case_limit: CaseLimit = None,
    stride: Stride = 3,
    corpus: Annotated[
        str | None, path_option(help="Of the second moments: self, a text file or hub:NAME:CONFIG; by preset.")
    ] = None,
    corpus_tokens: Annotated[int | None, typer.Option(help="Its tokens; by preset.")] = None,
    fluency_tokens: FluencyTokens = 100,
    seed: Annotated[int, typer.Option(help="Of contexts, control layers, sampling and bootstrap.")] = 0,
    shard: ShardOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    out: Out = None,
    figures: Annotated[Path | None, path_option(help="Folder for the figures; RUN/figures by default.")] = None,
    device: Device = None,
    dtype: DType = "float32",
    matmul_precision: MatmulPrecision = "highest",
) -> None:
    """Locate, edit at the layers that each locator points to and at every few layers, evaluate, write Table 1."""
    settings = _edit_settings(preset, case_limit, stride, fluency_tokens, seed, corpus, corpus_tokens)
    settings = replace(settings, editors=names_typed(editors))
    located: dict[str, Any] = {}
    if locators is not None:
        chosen = names_typed(locators)
        located = {"locators": chosen}
        layers = None if settings.layers is None else _of(chosen, settings.layers)
        settings = replace(settings, locators=chosen, located_again=chosen, layers=layers)
    locating = locate_settings(limit=limit, default_limit=LIMITS[preset], **located)
    given = _Given(model, base, facts, cases, device, dtype)
    _study(given, locating, settings, typed_sharing(shard, ray, workers), out, figures)


@app.command()
def table1(
    from_run: Annotated[Path, path_option("--from", help="The folder of a finished study; no model is needed.")],
    figures: Annotated[Path | None, path_option(help="Folder for the tables; RUN/figures by default.")] = None,
) -> None:
    """Table 1 and the figures of the layer sweep again, from the records of a study."""
    from interp.results.run_folder import RunFolder
    from interp.study.located import class_averages

    _draw_edits(RunFolder(from_run / "edits"), class_averages(RunFolder(from_run)), figures or from_run / "figures")


def _of(locators: tuple[str, ...], layers: Mapping[str, int]) -> dict[str, int]:
    """A preset's layers of these locators.

    Raises:
        OptionError: If it has none of one of them.
    """
    for name in locators:
        if name not in layers:
            raise OptionError(f"locators: the preset has layers of {', '.join(layers)}, not of {name}")
    return {name: layers[name] for name in locators}


def _edit_settings(
    preset: str,
    case_limit: int | None,
    stride: int,
    fluency_tokens: int,
    seed: int,
    corpus: str | None,
    corpus_tokens: int | None,
) -> EditStudySettings:
    from interp.options import check_choice
    from interp.study.settings import PRESETS

    check_choice("preset", preset, tuple(PRESETS))
    base = PRESETS[preset]
    chosen: dict[str, Any] = {"source": corpus, "tokens": corpus_tokens}
    text = replace(base.corpus, seed=seed, **{name: value for name, value in chosen.items() if value is not None})
    limit = count("case-limit", case_limit, base.limit)
    return replace(base, limit=limit, stride=stride, fluency_tokens=fluency_tokens, seed=seed, corpus=text)


@dataclass(frozen=True)
class _Given:
    """The model, the facts and the cases of a study, as they were typed."""

    model: str
    base: str | None
    facts: str
    cases: str
    device: str | None
    dtype: str


def _study(
    given: _Given,
    locating: LocateSettings,
    editing: EditStudySettings,
    sharing: Sharing,
    out: Path | None,
    figures: Path | None,
) -> None:
    shard = sharing.shard
    with bar("starting"):
        from interp.facts.case_files import load_cases
        from interp.facts.fact_files import load_facts
        from interp.study.editing import edit_cases
        from interp.study.left import editing_left, locating_left
        from interp.study.located import class_averages, selection
        from interp.study.locating import locate_facts

        candidates = load_facts(given.facts)
        to_edit = load_cases(given.cases)
        if not editing.corpus.source.startswith("hub:"):
            editing.corpus.revision()  # a missing file is found now, not after the locating
        key = digest([vars(locating), repr(editing), given.cases])
        place = out or Path("runs") / f"study-{slug(given.model)}-{slug(Path(given.facts).stem)}-{key}"
        drawn = figures or place / "figures"
        check_writable(drawn)
    early = Early(place, drawn, edits_follow=True) if shard is None else None
    beginning = at_work(sharing, given.model, given.device, given.dtype, given.base)
    with beginning as (network, who), keeping(place):
        with bar("locating", units="units", part="part 1 of 2") as advance:
            watched = early.locating(advance) if early else advance
            run = locate_facts(network, candidates, place, locating, source=given.facts, shard=who, progress=watched)
        say_precision(run)
        check_located(run, shard, locating_left(run))
        averages = class_averages(run)
        if early:
            _draw_located(run, averages, drawn)
            early.located(averages)
        with bar("editing", units="units", part="part 2 of 2") as advance:
            edits = edit_cases(
                network,
                to_edit,
                averages,
                place / "edits",
                editing,
                noise=selection(run).noise,
                source=given.cases,
                shard=who,
                progress=early.editing(advance, averages) if early else advance,
            )
        if all_is_done(edits, shard, editing_left(edits)):
            if shard is not None:
                _draw_located(run, averages, drawn)
            _draw_edits(edits, averages, drawn)
            say_report(place, averages)
    messages.print(f"records: {place}", soft_wrap=True)


def _draw_located(run: RunFolder, averages: list[ClassAverage], folder: Path) -> None:
    draw_figure1(averages, folder, "page")
    draw_first_fact(run, folder)


def _draw_edits(edits: Any, averages: Any, folder: Path) -> None:
    """Table 1, the layer sweep and the maps before and after an edit, from records alone."""
    from interp import plots
    from interp.evaluation.measure import PERCENT
    from interp.evaluation.measures import measures
    from interp.results.record import write_atomically
    from interp.study.again import relocated
    from interp.study.edited import read_edit_results

    found = read_edit_results(edits, averages)
    written = []
    texts = {
        "table1.md": plots.table1_markdown(found.rows, found.comparisons),
        "table1.tex": plots.table1_latex(found.rows, found.comparisons),
        "table1.csv": plots.table1_csv(found.rows, found.comparisons),
    }
    texts["edit-layers.csv"] = plots.scores_by_layer_csv(found.by_layer, found.strengths)
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
        written.append(folder / name)
    written += plots.save_figure(plots.scores_by_layer(found.by_layer, found.strengths), folder / "edit-layers")
    written += plots.save_figure(plots.before_after(relocated(edits).maps()), folder / "before-after")

    _print_rows(found.rows)
    skipped = dict.fromkeys(text for row in found.rows for text in row.skipped)
    left_out = f"; {len(skipped)} left out" if skipped else ""
    others = [f"{each.name} in {each.unit.name}" for each in measures() if each.unit is not PERCENT]
    units = "; ".join(("in percent", *others))
    screen.print(f"means over {found.rows[0].n_cases} cases{left_out}, {units}; intervals in table1.md")
    for text in skipped:
        messages.print(f"left out: {text}", soft_wrap=True, markup=False)
    for path in written:
        messages.print(f"wrote {path}", soft_wrap=True)


def _print_rows(rows: Sequence[TableRow]) -> None:
    """The means of Table 1 on 80 columns: names of locators break, numbers do not."""
    from rich.table import Table

    from interp.evaluation.measures import measures

    columns = measures()
    table = Table("located by", box=None, pad_edge=False)
    for name in ("editor", "layers"):
        table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column.short or column.name, justify="right", no_wrap=True)
    for row in rows:
        means = [f"{row.measured(column.name).mean:.1f}" for column in columns]
        table.add_row(row.locator, "-" if row.method == "none" else editor_title(row.method), row.layers, *means)
    screen.print(table)
