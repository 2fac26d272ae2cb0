"""The command line: a thin layer over the library. Heavy imports happen inside the commands, so --help is instant."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from interp.errors import DataError, InterpError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.locate.class_average import ClassAverage
    from interp.locate.knowledge import Answer
    from interp.runs import RunFolder
    from interp.study import LocateSettings

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Where does a language model keep a fact? Causal tracing and attribution scores, for any model.",
)
INTERRUPTED = 130
# texts of users and models are printed as they are: no markup, no emoji names
screen = Console(markup=False, emoji=False, highlight=False)
messages = Console(stderr=True, markup=False, emoji=False, highlight=False)

Model = Annotated[str, typer.Option(help="smollm2-135m (embedded), a Hugging Face name or a local folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; CUDA when present by default.")]
DType = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts and nothing else.")]
Facts = Annotated[str, typer.Option(help="builtin, a .json/.jsonl file (also known_1000.json), or hub:OWNER/NAME.")]
Subject = Annotated[str, typer.Option(help="The subject as it stands in the prompt.")]
Target = Annotated[str | None, typer.Option(help="The answer; the model's own top answer by default.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")]
Samples = Annotated[int, typer.Option(help="Noise samples.")]
Window = Annotated[int, typer.Option(help="Layers restored together for mlp and attn.")]
Noise = Annotated[str, typer.Option(help="Standard deviation, or 3sigma of the subject embeddings.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Corruption = Annotated[str, typer.Option(help="gaussian, uniform or symmetric (another subject).")]
Steps = Annotated[int, typer.Option(help="Quadrature nodes n.")]
Rule = Annotated[str, typer.Option(help="riemann (the paper's) or gauss-legendre.")]
Limit = Annotated[int, typer.Option(help="How many facts that the model knows; 0 for all.")]
Figures = Annotated[Path, typer.Option(help="Folder for the figures.")]
Width = Annotated[str, typer.Option(help="column, page or slide.")]


def main() -> None:
    """Entry point: expected errors are one line and exit code 2, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="interp: %(message)s", stream=sys.stderr)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        code = app(standalone_mode=False) or 0
    except InterpError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's usage errors have one
            raise
        _fail(error.format_message())
    if code == INTERRUPTED:  # typer returns it for Ctrl-C
        messages.print("interrupted: finished work is kept; the same command goes on from there", soft_wrap=True)
    raise SystemExit(code)


def _fail(message: str) -> NoReturn:
    messages.print(Text("error:", style="bold red"), " ".join(message.split()), soft_wrap=True)
    raise SystemExit(2) from None


@app.command()
def reproduce(
    model: Model = "smollm2-135m",
    facts: Facts = "builtin",
    limit: Limit = 12,
    out: Out = None,
    figures: Figures = Path("figures"),
    device: Device = None,
    dtype: DType = "float32",
) -> None:
    """Reproduce the study with its published settings: locate known facts, write Figure 1 and its numbers."""
    _figure1(model, facts, _settings(limit=limit), out, figures, "page", device, dtype, single_facts=True)


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

        _check_width(width)
        averages = class_averages(RunFolder(from_run))
        _draw_figure1(averages, figures or from_run / "figures", width)
        return
    settings = _settings(
        limit=limit,
        samples=samples,
        window=window,
        noise=_noise(noise),
        seed=seed,
        corruption=corruption,
        attribution_tokens=attribution_tokens,
        steps=steps,
        rule=rule,
    )
    _figure1(model, facts, settings, out, figures, width, device, dtype)


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

    fact = _fact(prompt, subject, target, relation)
    options = {
        "state": state,
        "window": window,
        "samples": samples,
        "noise": _noise(noise),
        "seed": seed,
        "corruption": corruption,
        "metric": metric,
        "sever": sever,
    }
    reference = load_facts(facts)
    network = _load(model, device, dtype)
    run, described = _single_run("trace", network, {"fact": repr(fact), "facts": facts, **options}, out)
    with _bar("tracing") as advance:
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

    fact = _fact(prompt, subject, target)
    options = {"tokens": tokens, "steps": steps, "rule": rule}
    network = _load(model, device, dtype)
    check_positive(top=top)
    run, described = _single_run("attribute", network, {"fact": repr(fact), **options}, out)
    with _bar("attributing") as advance:
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
    network = _load(model, device, dtype)
    with _bar("asking") as advance:
        found = answers(network, chosen, progress=advance)
    shown = [answer for answer in found if answer.known or not known]
    if as_json:
        _print_json([_answer_row(answer) for answer in shown])
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
        _print_json(dict(KNOWN_MODELS))
        return
    from rich.table import Table

    table = Table("name", "what it is", box=None)
    for name, description in KNOWN_MODELS.items():
        table.add_row(name, description)
    screen.print(table)


def _figure1(
    model: str,
    facts: str,
    settings: LocateSettings,
    out: Path | None,
    figures: Path | None,
    width: str,
    device: str | None,
    dtype: str,
    *,
    single_facts: bool = False,
) -> None:
    _check_width(width)
    with _bar("starting") as advance:
        from interp.datasets import load_facts
        from interp.study import class_averages, locate_facts

        candidates = load_facts(facts)
        _check_writable(figures)
        network = _load(model, device, dtype)
        place = out or Path("runs") / f"figure1-{_slug(model)}-{_slug(Path(facts).stem)}-{_digest([vars(settings)])}"
        run = locate_facts(
            network,
            candidates,
            place,
            settings,
            source=facts,
            progress=lambda done, total, label: advance(done, total, label),
        )
        averages = class_averages(run)
    _draw_figure1(averages, figures or place / "figures", width)
    if single_facts:
        _draw_first_fact(run, figures or place / "figures")
    messages.print(f"records: {place}", soft_wrap=True)


def _draw_figure1(averages: list[ClassAverage], folder: Path, width: str) -> None:
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


def _draw_first_fact(run: Any, folder: Path) -> None:
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
        _print_json(data)
        return
    screen.print(summary, soft_wrap=True)
    screen.print(plots.heatmap_text(values, tokens, span, method=method))
    messages.print(f"records and figures: {place}", soft_wrap=True)


def _settings(**options: Any) -> LocateSettings:
    from interp.errors import OptionError
    from interp.study import LocateSettings

    if options["limit"] < 0:
        raise OptionError(f"limit must be 0 (all) or more, got {options['limit']}")
    options["limit"] = options["limit"] or None
    return LocateSettings(**options)


def _load(name: str, device: str | None, dtype: str) -> HookedTransformer:
    import torch

    from interp.models import load_model
    from interp.options import check_choice

    check_choice("dtype", dtype, ("float32", "bfloat16", "float16"))
    return load_model(name, dtype=getattr(torch, dtype), device=device)


def _fact(prompt: str, subject: str, target: str | None, relation: str | None = None) -> Any:
    from interp.errors import FactError
    from interp.facts import Fact

    if target is not None and not target.strip():
        raise FactError("the target is empty")
    if target is not None and not target[0].isspace():
        target = " " + target  # as one types it; the README says so
    return Fact.from_prompt(prompt.rstrip(), subject, target, relation)


def _single_run(
    kind: str, network: HookedTransformer, settings: dict[str, Any], out: Path | None
) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of a single result, found fit before the work; its settings are written with the result."""
    from dataclasses import asdict

    from interp.results import provenance
    from interp.runs import RunFolder

    settings = {"command": kind, **settings, "provenance": asdict(provenance(network))}
    run = RunFolder(out or Path("runs") / f"{kind}-{_digest(settings)}")
    run.agrees(settings)
    _check_writable(run.path)
    return run, settings


def _noise(text: str) -> Any:
    from interp.errors import OptionError

    if text == "3sigma":
        return text
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"noise must be a positive number or '3sigma', got {text!r}") from None


def _check_width(width: str) -> None:
    from interp.options import check_choice
    from interp.plots import WIDTHS

    check_choice("width", width, tuple(WIDTHS))


def _check_writable(folder: Path | None) -> None:
    """Find out before the long work, not after it."""
    if folder is None:
        return
    from interp.results import write_atomically

    probe = folder / ".interp-probe"
    write_atomically(probe, b"")
    probe.unlink()


@contextmanager
def _bar(label: str) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left on a terminal; elsewhere one line per finished step."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if not messages.is_terminal:
        seen: list[str] = []

        def lines(done: float, total: float, text: str = "") -> None:
            if text and seen[-1:] != [text]:
                seen.append(text)
                messages.print(f"[{done:.0f}/{total:.0f}] {text}", soft_wrap=True)

        yield lines
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, transient=True, speed_estimate_period=300) as progress:
        task = progress.add_task(label, total=None)

        def advance(done: float, total: float, text: str = "") -> None:
            progress.update(task, completed=done, total=total, description=(text or label)[:60])

        yield advance


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


def _print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() or "facts"


def _digest(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
