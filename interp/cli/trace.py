"""The command trace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Base,
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
    Prompt,
    Samples,
    Seed,
    Subject,
    Target,
    Window,
    app,
    load,
    noise_level_of,
    refuse_given,
    target_text,
    typed_fact,
)
from interp.cli.one_fact import show_single, single_run
from interp.cli.precision import MatmulPrecision, multiplying
from interp.cli.progress import bar

if TYPE_CHECKING:
    from pathlib import Path

    from interp.locate.methods.causal_trace import CausalTrace


@app.command()
@multiplying
def trace(
    context: Context,
    prompt: Prompt,
    subject: Subject,
    target: Target = None,
    exact_target: ExactTarget = False,
    occurrence: Occurrence = None,
    model: Model = "smollm2-135m",
    base: Base = None,
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
    matmul_precision: MatmulPrecision = "highest",
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
    network = load(model, device, dtype, base)
    run, described = single_run("trace", network, {"fact": repr(fact), "facts": facts, **options}, out)
    with bar("tracing") as advance:
        found = causal_trace(network, fact, **options, reference_facts=reference, progress=advance)
    run = run.open(run.path, described)
    run.put("trace", found)
    title = f"p(clean) = {found.clean_probability:.3f}, p(corrupted) = {found.corrupted_probability:.3f}"
    show_single(
        replace(found.map("scores"), title=f"Answer:{found.answer}"),
        place=run.path,
        summary=f"answer {found.answer!r}: {title}"
        + ("" if found.known else f"; the model's own answer is {found.top_answer!r}")
        + target_text(network, fact),
        data=_trace_data(found, run.path),
        as_json=as_json,
    )


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
