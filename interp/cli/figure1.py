"""The command figure1, and what it draws."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Base,
    Context,
    Corruption,
    Device,
    DType,
    Facts,
    Limit,
    Model,
    Noise,
    Out,
    Rule,
    Samples,
    Seed,
    Steps,
    Width,
    Window,
    app,
    check_width,
    check_writable,
    digest,
    locate_settings,
    noise_level_of,
    path_option,
    refuse_given,
    slug,
)
from interp.cli.console import messages, screen
from interp.cli.early import Early, say_report
from interp.cli.ending import keeping
from interp.cli.precision import MatmulPrecision, multiplying, say_precision
from interp.cli.progress import bar
from interp.cli.shards import ShardOption, all_is_done
from interp.cli.sharing import RayOption, WorkersOption, at_work, typed_sharing

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.locate.class_average import ClassAverage
    from interp.study.settings import LocateSettings
    from interp.study.shard import Shard
    from interp.study.workers import Workers

RUN_OPTIONS = (
    "model", "base", "facts", "limit", "samples", "window", "noise", "seed", "corruption", "attribution_tokens",
    "steps", "rule", "shard", "ray", "workers", "out", "device", "dtype", "matmul_precision",
)  # fmt: skip


@app.command()
@multiplying
def figure1(
    context: Context,
    model: Model = "smollm2-135m",
    base: Base = None,
    facts: Facts = "builtin",
    limit: Limit = None,
    samples: Samples = 10,
    window: Window = 10,
    noise: Noise = "3sigma",
    seed: Seed = 1,
    corruption: Corruption = "gaussian",
    attribution_tokens: Annotated[str, typer.Option(help="all (one joint path) or each (slower).")] = "all",
    steps: Steps = 20,
    rule: Rule = "riemann",
    shard: ShardOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    out: Out = None,
    figures: Annotated[Path | None, path_option(help="Folder for the figures; RUN/figures by default.")] = None,
    width: Width = "page",
    from_run: Annotated[Path | None, path_option("--from", help="Redraw a finished run, without a model.")] = None,
    device: Device = None,
    dtype: DType = "float32",
    matmul_precision: MatmulPrecision = "highest",
) -> None:
    """Figure 1: attribution and causal tracing by token class and layer, averaged over known facts."""
    if from_run is not None:
        from interp.results.run_folder import RunFolder
        from interp.study.located import class_averages

        refuse_given(context, "--from takes everything from the records", *RUN_OPTIONS)
        check_width(width)
        averages = class_averages(RunFolder(from_run))
        draw_figure1(averages, figures or from_run / "figures", width)
        return
    if corruption == "symmetric":
        refuse_given(context, "symmetric corruption adds no noise", "noise")
    settings = locate_settings(
        limit=limit,
        samples=samples,
        window=window,
        noise=noise_level_of(noise),
        seed=seed,
        corruption=corruption,
        attribution_tokens=attribution_tokens,
        steps=steps,
        rule=rule,
    )
    sharing = typed_sharing(shard, ray, workers)
    beginning = at_work(sharing, model, device, dtype, base)
    _run_figure1(model, beginning, facts, settings, sharing.shard, out, figures, width)


def _run_figure1(
    model: str,
    beginning: AbstractContextManager[tuple[HookedTransformer, Workers]],
    facts: str,
    settings: LocateSettings,
    shard: Shard | None,
    out: Path | None,
    figures: Path | None,
    width: str,
) -> None:
    check_width(width)
    from interp.facts.fact_files import load_facts
    from interp.study.left import locating_left
    from interp.study.located import class_averages
    from interp.study.locating import locate_facts

    candidates = load_facts(facts)
    check_writable(figures)
    place = out or Path("runs") / f"figure1-{slug(model)}-{slug(Path(facts).stem)}-{digest([vars(settings)])}"
    drawn = figures or place / "figures"
    with (
        beginning as (network, who),
        keeping(place),
        bar("locating", units="units") as advance,
    ):
        watched = advance if shard else Early(place, drawn, width=width, edits_follow=False).locating(advance)
        run = locate_facts(network, candidates, place, settings, source=facts, shard=who, progress=watched)
    say_precision(run)
    if all_is_done(run, shard, locating_left(run)):
        averages = class_averages(run)
        draw_figure1(averages, drawn, width)
        say_report(place, averages)
    messages.print(f"records: {place}", soft_wrap=True)


def draw_figure1(averages: list[ClassAverage], folder: Path, width: str) -> None:
    """Figure 1 in every format, its numbers, and where each row peaks."""
    from rich.table import Table

    from interp import plots
    from interp.results.record import write_atomically

    written = plots.save_figure(plots.figure1(averages, width=width), folder / "figure1")
    for name, text in (("figure1.html", plots.figure1_html(averages)), ("figure1.csv", plots.figure1_csv(averages))):
        write_atomically(folder / name, text.encode())
        written.append(folder / name)
    table = Table("layer of the largest mean [those not told from it, 95%]", *(average.method for average in averages))
    for row, name in enumerate(averages[0].token_classes):
        spans = [f"[{a.peak_low[row]}, {a.peak_high[row]}]" if a.peak_low[row] >= 0 else "[-]" for a in averages]
        cells = [f"{a.peak[row]} {span}" if a.n_facts[row] else "-" for a, span in zip(averages, spans, strict=True)]
        table.add_row(f"{name} (n = {averages[0].n_facts[row]})", *cells)
    screen.print(table)
    for path in written:
        messages.print(f"wrote {path}", soft_wrap=True)


def draw_first_fact(run: Any, folder: Path) -> None:
    """The maps of one fact, as an example."""
    from interp import plots
    from interp.study.located import each_located

    fact = next(each_located(run))
    for name, found in fact.records.items():
        shown = found.map()
        figure = plots.heatmap(replace(shown, title=f"Answer:{shown.answer}"))
        plots.save_figure(figure, folder / f"one-fact-{name}")
