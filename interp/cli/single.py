"""Commands for one fact: trace and attribute."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Context,
    Corruption,
    Device,
    DType,
    ExactTarget,
    Facts,
    Json,
    Model,
    Noise,
    Occurrence,
    Out,
    Rule,
    Samples,
    Seed,
    Steps,
    Subject,
    Target,
    Window,
    app,
    load,
    noise_level_of,
    refuse_given,
    single_run,
    target_text,
    typed_fact,
)
from interp.cli.console import messages, print_json, screen
from interp.cli.progress import bar

if TYPE_CHECKING:
    from pathlib import Path

    from interp.locate.methods.attribution import Attribution
    from interp.locate.methods.causal_trace import CausalTrace
    from interp.results.token_map import TokenMap


@app.command()
def trace(
    context: Context,
    prompt: Annotated[str, typer.Argument(help="It ends right before the answer; {} may stand for the subject.")],
    subject: Subject,
    target: Target = None,
    exact_target: ExactTarget = False,
    occurrence: Occurrence = None,
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
    from interp.facts.fact_files import load_facts
    from interp.locate.methods.causal_trace import causal_trace

    _check_trace_options(context, state, corruption, noise)
    fact = typed_fact(prompt, subject, target, relation, exact=exact_target, occurrence=occurrence)
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
        replace(found.map("scores"), title=f"Answer:{found.answer}"),
        place=run.path,
        summary=f"answer {found.answer!r}: {title}"
        + ("" if found.known else f"; the model's own answer is {found.top_answer!r}")
        + target_text(network, fact),
        data=_trace_data(found, run.path),
        as_json=as_json,
    )


@app.command()
def attribute(
    prompt: Annotated[str, typer.Argument(help="It ends right before the answer; {} may stand for the subject.")],
    subject: Subject,
    target: Target = None,
    exact_target: ExactTarget = False,
    occurrence: Occurrence = None,
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
    from interp.locate.methods.attribution import attribute as attribute_neurons
    from interp.options import check_positive

    fact = typed_fact(prompt, subject, target, exact=exact_target, occurrence=occurrence)
    options = {"tokens": tokens, "steps": steps, "rule": rule}
    network = load(model, device, dtype)
    check_positive(top=top)
    run, described = single_run("attribute", network, {"fact": repr(fact), **options}, out)
    with bar("attributing") as advance:
        found = attribute_neurons(network, fact, **options, progress=advance)  # type: ignore[arg-type]
    run = run.open(run.path, described)
    run.put("attribution", found)
    _show_single(
        replace(found.map(), title=f"Answer:{found.answer}", unit="attribution score"),
        place=run.path,
        summary=f"answer {found.answer!r}: p = {found.probability:.3f}; largest completeness gap"
        f" {found.completeness_gap.abs().max():.3g} ({rule}, n = {steps})" + target_text(network, fact),
        data=_attribution_data(found, found.top_neurons(top), run.path),
        as_json=as_json,
    )
    if not as_json:
        from rich.table import Table

        table = Table("layer", "token", "neuron", "score", title="Highest attribution scores", title_justify="left")
        for neuron in found.top_neurons(top):
            token = "last" if neuron.token is None else repr(found.tokens[neuron.token])
            table.add_row(str(neuron.layer), token, str(neuron.neuron), f"{neuron.score:.4f}")
        screen.print(table)


def _check_trace_options(context: Context, state: str, corruption: str, noise: str) -> None:
    if state == "resid":
        refuse_given(context, "--state resid restores one layer", "window")
    if corruption == "symmetric":
        refuse_given(context, "symmetric corruption adds no noise", "noise")
        return
    refuse_given(context, "only --corruption symmetric replaces subjects", "relation")
    if noise != "3sigma":
        refuse_given(context, "facts are for noise of 3sigma and for symmetric corruption", "facts")


def _trace_data(found: CausalTrace, place: Path) -> dict[str, Any]:
    return {
        "fact": {"prompt": found.fact.prompt, "subject": found.fact.subject, "target": found.fact.target},
        "tokens": found.tokens,
        "subject_span": found.subject_span,
        "answer": found.answer,
        "known": found.known,
        "clean_probability": found.clean_probability,
        "corrupted_probability": found.corrupted_probability,
        "noise": found.noise,
        "scores": found.scores.tolist(),
        "indirect_effect": found.indirect_effect.tolist(),
        "run": str(place),
    }


def _attribution_data(found: Attribution, neurons: Any, place: Path) -> dict[str, Any]:
    return {
        "fact": {"prompt": found.fact.prompt, "subject": found.fact.subject, "target": found.fact.target},
        "tokens": found.tokens,
        "answer": found.answer,
        "known": found.known,
        "probability": found.probability,
        "per_layer": found.per_layer().tolist(),
        "per_token": None if found.scaled_tokens == "last" else found.per_token("sum").tolist(),
        "completeness_gap": found.completeness_gap.tolist(),
        "top_neurons": [vars(neuron) for neuron in neurons],
        "run": str(place),
    }


def _show_single(
    shown: TokenMap,
    *,
    place: Path,
    summary: str,
    data: dict[str, Any],
    as_json: bool,
) -> None:
    from interp import plots
    from interp.plots.style import letters_without_font
    from interp.results.record import write_atomically

    plots.save_figure(plots.heatmap(shown), place / "heatmap")
    if missing := letters_without_font("".join((shown.title, *shown.tokens))):
        messages.print(
            f"figures show {' '.join(missing[:8])} as codes, as no installed font has them: Noto Sans CJK has Chinese,"
            " Japanese and Korean",
            soft_wrap=True,
        )
    write_atomically(place / "heatmap.html", plots.heatmap_html(shown).encode())
    if as_json:
        print_json(data)
        return
    screen.print(summary, soft_wrap=True)
    coloured = screen.color_system is not None and not screen.no_color
    screen.print(plots.heatmap_text(shown, columns=screen.width, coloured=coloured), end="")
    messages.print(f"records and figures: {place}", soft_wrap=True)
