"""The command attribute."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Base,
    Device,
    DType,
    ExactTarget,
    Json,
    Model,
    Occurrence,
    Out,
    Prompt,
    Rule,
    Steps,
    Subject,
    Target,
    app,
    load,
    target_text,
    typed_fact,
)
from interp.cli.console import screen
from interp.cli.one_fact import show_single, single_run
from interp.cli.precision import MatmulPrecision, multiplying
from interp.cli.progress import bar

if TYPE_CHECKING:
    from pathlib import Path

    from interp.locate.methods.attribution import Attribution


@app.command()
@multiplying
def attribute(
    prompt: Prompt,
    subject: Subject,
    target: Target = None,
    exact_target: ExactTarget = False,
    occurrence: Occurrence = None,
    model: Model = "smollm2-135m",
    base: Base = None,
    tokens: Annotated[str, typer.Option(help="last, all (jointly) or each (by itself).")] = "all",
    steps: Steps = 20,
    rule: Rule = "riemann",
    top: Annotated[int, typer.Option(help="How many neurons to list.")] = 10,
    out: Out = None,
    device: Device = None,
    dtype: DType = "float32",
    matmul_precision: MatmulPrecision = "highest",
    as_json: Json = False,
) -> None:
    """Attribution scores of MLP neurons for one fact, with the completeness gap."""
    from interp.locate.methods.attribution import attribute as attribute_neurons
    from interp.options import check_positive

    fact = typed_fact(prompt, subject, target, exact=exact_target, occurrence=occurrence)
    options = {"tokens": tokens, "steps": steps, "rule": rule}
    network = load(model, device, dtype, base)
    check_positive(top=top)
    run, described = single_run("attribute", network, {"fact": repr(fact), **options}, out)
    with bar("attributing") as advance:
        found = attribute_neurons(network, fact, **options, progress=advance)  # type: ignore[arg-type]
    run = run.open(run.path, described)
    run.put("attribution", found)
    show_single(
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
