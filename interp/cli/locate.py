"""Commands that locate: figure1, trace, attribute, facts, models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from interp.cli.common import (
    Corruption,
    Device,
    DType,
    Facts,
    Json,
    Limit,
    Model,
    Noise,
    Out,
    Rule,
    Samples,
    Seed,
    Steps,
    Subject,
    Target,
    Width,
    Window,
    app,
    bar,
    check_width,
    check_writable,
    digest,
    load,
    locate_settings,
    messages,
    noise_level_of,
    print_json,
    screen,
    single_run,
    slug,
    typed_fact,
)
from interp.errors import DataError

if TYPE_CHECKING:
    from interp.locate.class_average import ClassAverage
    from interp.locate.knowledge import Answer
    from interp.study import LocateSettings


@app.command()
def figure1(
    model: Model = "smollm2-135m",
    facts: Facts = "builtin",
    limit: Limit = 12,
    samples: Samples = 10,
    window: Window = 10,
    noise: Noise = "3sigma",
    seed: Seed = 1,
    corruption: Corruption = "gaussian",
    attribution_tokens: Annotated[str, typer.Option(help="all (one joint path) or each (slower).")] = "all",
    steps: Steps = 20,
    rule: Rule = "riemann",
    out: Out = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures; RUN/figures by default.")] = None,
    width: Width = "page",
    from_run: Annotated[Path | None, typer.Option("--from", help="Redraw a finished run, without a model.")] = None,
    device: Device = None,
    dtype: DType = "float32",
) -> None:
    """Figure 1: attribution and causal tracing by token class and layer, averaged over known facts."""
    if from_run is not None:
        from interp.runs import RunFolder
        from interp.study import class_averages

        check_width(width)
        averages = class_averages(RunFolder(from_run))
        draw_figure1(averages, figures or from_run / "figures", width)
        return
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
    _run_figure1(model, facts, settings, out, figures, width, device, dtype)


@app.command()
def trace(
    prompt: Annotated[str, typer.Argument(help="A statement that ends right before the answer.")],
    subject: Subject,
    target: Target = None,
    model: Model = "smollm2-135m",
    state: Annotated[str, typer.Option(help="resid, mlp or attn.")] = "resid",
    window: Window = 10,
    samples: Samples = 10,
    noise: Noise = "3sigma",
    seed: Seed = 1,
    corruption: Corruption = "gaussian",
    metric: Annotated[str, typer.Option(help="probability, log_probability or logit_difference.")] = "probability",
    sever: Annotated[str | None, typer.Option(help="mlp or attn: hold their outputs to the corrupted run.")] = None,
    relation: Annotated[str | None, typer.Option(help="For symmetric: relation of the replacement subjects.")] = None,
    facts: Facts = "builtin",
    out: Out = None,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Trace one fact: which restored states bring the answer back."""
    from interp.datasets import load_facts
    from interp.locate.causal_trace import causal_trace

    fact = typed_fact(prompt, subject, target, relation)
    options = {
        "state": state,
        "window": window,
        "samples": samples,
        "noise": noise_level_of(noise),
        "seed": seed,
        "corruption": corruption,
        "metric": metric,
        "sever": sever,
    }
    reference = load_facts(facts)
    network = load(model, device, dtype)
    run, described = single_run("trace", network, {"fact": repr(fact), "facts": facts, **options}, out)
    with bar("tracing") as advance:
        found = causal_trace(network, fact, **options, reference_facts=reference, progress=advance)
    run = run.open(run.path, described)
    run.put("trace", found)
    title = f"p(clean) = {found.clean_probability:.3f}, p(corrupted) = {found.corrupted_probability:.3f}"
    _show_single(
        found.scores,
        found.tokens,
        found.subject_span,
        method=state,
        title=f"Answer:{found.answer}",
        unit=metric.replace("_", " "),
        place=run.path,
        summary=f"answer {found.answer!r}: {title}"
        + ("" if found.known else f"; the model's own answer is {found.top_answer!r}"),
        data={
            "fact": {"prompt": fact.prompt, "subject": fact.subject, "target": fact.target},
            "tokens": found.tokens,
            "subject_span": found.subject_span,
            "answer": found.answer,
            "known": found.known,
            "clean_probability": found.clean_probability,
            "corrupted_probability": found.corrupted_probability,
            "noise": found.noise,
            "scores": found.scores.tolist(),
            "indirect_effect": found.indirect_effect.tolist(),
            "run": str(run.path),
        },
        as_json=as_json,
    )


@app.command()
def attribute(
    prompt: Annotated[str, typer.Argument(help="A statement that ends right before the answer.")],
    subject: Subject,
    target: Target = None,
    model: Model = "smollm2-135m",
    tokens: Annotated[str, typer.Option(help="last, all (jointly) or each (by itself).")] = "all",
    steps: Steps = 20,
    rule: Rule = "riemann",
    top: Annotated[int, typer.Option(help="How many neurons to list.")] = 10,
    out: Out = None,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Attribution scores of MLP neurons for one fact, with the completeness gap."""
    from interp.locate.attribution import attribute as attribute_neurons
    from interp.options import check_positive

    fact = typed_fact(prompt, subject, target)
    options = {"tokens": tokens, "steps": steps, "rule": rule}
    network = load(model, device, dtype)
    check_positive(top=top)
    run, described = single_run("attribute", network, {"fact": repr(fact), **options}, out)
    with bar("attributing") as advance:
        found = attribute_neurons(network, fact, **options, progress=advance)  # type: ignore[arg-type]
    run = run.open(run.path, described)
    run.put("attribution", found)
    neurons = found.top_neurons(top)
    texts: tuple[str, ...]
    span: tuple[int, int] | None
    if tokens == "last":
        values, texts, span = found.per_layer()[None], ("last",), None
    else:
        values, texts, span = found.per_token("sum"), found.tokens[: found.n_prompt_tokens], found.subject_span
    _show_single(
        values,
        texts,
        span,
        method="attribution",
        title=f"Answer:{found.answer}",
        unit="attribution score",
        place=run.path,
        summary=f"answer {found.answer!r}: p = {found.probability:.3f}; largest completeness gap"
        f" {found.completeness_gap.abs().max():.3g} ({rule}, n = {steps})",
        data={
            "fact": {"prompt": fact.prompt, "subject": fact.subject, "target": fact.target},
            "tokens": found.tokens,
            "answer": found.answer,
            "known": found.known,
            "probability": found.probability,
            "per_layer": found.per_layer().tolist(),
            "per_token": None if tokens == "last" else found.per_token("sum").tolist(),
            "completeness_gap": found.completeness_gap.tolist(),
            "top_neurons": [vars(neuron) for neuron in neurons],
            "run": str(run.path),
        },
        as_json=as_json,
    )
    if not as_json:
        from rich.table import Table

        table = Table("layer", "token", "neuron", "score", title="Highest attribution scores", title_justify="left")
        for neuron in neurons:
            token = "last" if neuron.token is None else repr(found.tokens[neuron.token])
            table.add_row(str(neuron.layer), token, str(neuron.neuron), f"{neuron.score:.4f}")
        screen.print(table)


@app.command("facts")
def list_facts(
    model: Model = "smollm2-135m",
    facts: Facts = "builtin",
    relation: Annotated[str | None, typer.Option(help="Only this relation.")] = None,
    known: Annotated[bool, typer.Option("--known", help="Only facts the model knows.")] = False,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Which facts the model knows, with the probability of the right answer."""
    from interp.datasets import load_facts
    from interp.locate.knowledge import answers

    chosen = [fact for fact in load_facts(facts) if relation in (None, fact.relation)]
    if not chosen:
        raise DataError(f"{facts}: no fact has the relation {relation!r}")
    network = load(model, device, dtype)
    with bar("asking") as advance:
        found = answers(network, chosen, progress=advance)
    shown = [answer for answer in found if answer.known or not known]
    if as_json:
        print_json([_answer_row(answer) for answer in shown])
        return
    from rich.table import Table

    table = Table("", "prompt", "expected", "p", "top answer", "p", box=None)
    for answer in shown:
        table.add_row(
            Text("✓", style="green") if answer.known else Text("·", style="red"),
            answer.fact.prompt,
            answer.expected,
            f"{answer.probability:.3f}",
            answer.top_answer,
            f"{answer.top_probability:.3f}",
        )
    screen.print(table)
    screen.print(
        f"{sum(a.known for a in found)} of {len(found)} known: the first token of the target is the top answer"
    )


@app.command("models")
def list_models(as_json: Json = False) -> None:
    """Names to start from; any model of these families works, by name or folder."""
    from interp.models import KNOWN_MODELS

    if as_json:
        print_json(dict(KNOWN_MODELS))
        return
    from rich.table import Table

    table = Table("name", "what it is", box=None)
    for name, description in KNOWN_MODELS.items():
        table.add_row(name, description)
    screen.print(table)


def _run_figure1(
    model: str,
    facts: str,
    settings: LocateSettings,
    out: Path | None,
    figures: Path | None,
    width: str,
    device: str | None,
    dtype: str,
) -> None:
    check_width(width)
    with bar("starting") as advance:
        from interp.datasets import load_facts
        from interp.study import class_averages, locate_facts

        candidates = load_facts(facts)
        check_writable(figures)
        network = load(model, device, dtype)
        place = out or Path("runs") / f"figure1-{slug(model)}-{slug(Path(facts).stem)}-{digest([vars(settings)])}"
        run = locate_facts(
            network,
            candidates,
            place,
            settings,
            source=facts,
            progress=lambda done, total, label: advance(done, total, label),
        )
        averages = class_averages(run)
    draw_figure1(averages, figures or place / "figures", width)
    messages.print(f"records: {place}", soft_wrap=True)


def draw_figure1(averages: list[ClassAverage], folder: Path, width: str) -> None:
    """Figure 1 in every format, its numbers, and where each row peaks."""
    from rich.table import Table

    from interp import plots
    from interp.results import write_atomically

    written = plots.save_figure(plots.figure1(averages, width=width), folder / "figure1")
    for name, text in (("figure1.html", plots.figure1_html(averages)), ("figure1.csv", plots.figure1_csv(averages))):
        write_atomically(folder / name, text.encode())
        written.append(folder / name)
    table = Table("layer of the largest mean [95% interval]", *(average.method for average in averages))
    for row, name in enumerate(averages[0].token_classes):
        cells = [f"{a.peak[row]} [{a.peak_low[row]}, {a.peak_high[row]}]" if a.n_facts[row] else "-" for a in averages]
        table.add_row(f"{name} (n = {averages[0].n_facts[row]})", *cells)
    screen.print(table)
    for path in written:
        messages.print(f"wrote {path}", soft_wrap=True)


def draw_first_fact(run: Any, folder: Path) -> None:
    """The maps of one fact, as an example."""
    from interp import plots
    from interp.study import located

    fact = located(run)[0]
    for state, found in fact.traces.items():
        figure = plots.heatmap(
            found.scores,
            found.tokens,
            found.subject_span,
            title=f"Answer:{found.answer}",
            unit="probability",
            method=state,
        )
        plots.save_figure(figure, folder / f"one-fact-{state}")
    attribution = fact.attribution
    figure = plots.heatmap(
        attribution.per_token("sum"),
        attribution.tokens[: attribution.n_prompt_tokens],
        attribution.subject_span,
        title=f"Answer:{attribution.answer}",
        unit="attribution score",
        method="attribution",
    )
    plots.save_figure(figure, folder / "one-fact-attribution")


def _show_single(
    values: Any,
    tokens: tuple[str, ...],
    span: tuple[int, int] | None,
    *,
    method: str,
    title: str,
    unit: str,
    place: Path,
    summary: str,
    data: dict[str, Any],
    as_json: bool,
) -> None:
    from interp import plots
    from interp.results import write_atomically

    plots.save_figure(plots.heatmap(values, tokens, span, title=title, unit=unit, method=method), place / "heatmap")
    page = plots.heatmap_html(values, tokens, span, title=title, unit=unit, method=method)
    write_atomically(place / "heatmap.html", page.encode())
    if as_json:
        print_json(data)
        return
    screen.print(summary, soft_wrap=True)
    screen.print(plots.heatmap_text(values, tokens, span, method=method))
    messages.print(f"records and figures: {place}", soft_wrap=True)


def _answer_row(answer: Answer) -> dict[str, Any]:
    return {
        "prompt": answer.fact.prompt,
        "subject": answer.fact.subject,
        "target": answer.fact.target,
        "relation": answer.fact.relation,
        "known": answer.known,
        "probability": answer.probability,
        "top_answer": answer.top_answer,
        "top_probability": answer.top_probability,
    }
