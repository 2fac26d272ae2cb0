"""Commands that list: facts (which ones the model knows) and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from interp.cli.common import Base, Context, Device, DType, Facts, Json, Model, app, load, path_option, refuse_given
from interp.cli.console import print_json, screen
from interp.cli.progress import bar
from interp.errors import DataError

if TYPE_CHECKING:
    import torch

    from interp.locate.knowledge import TopAnswer
    from interp.models.shape import Shape


@app.command("facts")
def list_facts(
    model: Model = "smollm2-135m",
    base: Base = None,
    facts: Facts = "builtin",
    relation: Annotated[str | None, typer.Option(help="Only this relation.")] = None,
    known: Annotated[bool, typer.Option("--known", help="Only facts the model knows.")] = False,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Which facts the model knows, with the probability of the right answer."""
    from interp.facts.fact_files import load_facts
    from interp.locate.knowledge import top_answers

    chosen = [fact for fact in load_facts(facts) if relation in (None, fact.relation)]
    if not chosen:
        raise DataError(f"{facts}: no fact has the relation {relation!r}")
    network = load(model, device, dtype, base)
    with bar("asking") as advance:
        found = top_answers(network, chosen, progress=advance)
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
def list_models(
    context: Context,
    fit: Annotated[
        str | None,
        path_option(
            help="A name, folder or file: what it would need here, from its config alone, without its weights."
        ),
    ] = None,
    base: Base = None,
    device: Device = None,
    dtype: DType = "float32",
    tokens: Annotated[int, typer.Option(help="Of a prompt, for --fit.")] = 16,
    samples: Annotated[int, typer.Option(help="Noise samples of a trace, for --fit.")] = 10,
    as_json: Json = False,
) -> None:
    """Names to start from (any model of these families works, by name or folder), or what one of them would need."""
    from interp.models.hub import KNOWN_MODELS

    if fit is not None:
        _show_fit(fit, base, device, dtype, tokens, samples, as_json)
        return
    refuse_given(context, "it is for --fit", "base", "device", "dtype", "tokens", "samples")
    if as_json:
        print_json(dict(KNOWN_MODELS))
        return
    from rich.table import Table

    table = Table("name", "what it is", box=None)
    for name, description in KNOWN_MODELS.items():
        table.add_row(name, description)
    screen.print(table)


def _show_fit(
    name: str, base: str | None, device: str | None, dtype: str, tokens: int, samples: int, as_json: bool
) -> None:
    """What each step would need on this machine, and whether it is free."""
    with bar(f"reading the config of {name}"):
        import torch
        from rich.table import Table

        from interp.engine.batches import free_bytes
        from interp.models.load import checked_device
        from interp.models.shape import model_shape
        from interp.options import check_choice, check_positive
        from interp.study.fit import LIBRARIES, Work, needs

        check_choice("dtype", dtype, ("float32", "bfloat16", "float16", "auto"))
        check_positive(tokens=tokens, samples=samples)
        place = checked_device(device)
        shape = model_shape(name, getattr(torch, dtype, "auto"), base=base)
        free = free_bytes(place)
        most = [_at_once(shape, place, free, gradients=gradients) for gradients in (False, True)]
        found = needs(shape, Work(tokens=tokens, samples=samples, batch_tokens=most[0], gradient_tokens=most[1]))
    totals = {need.step: shape.weight_bytes + need.more for need in found}
    kind = str(shape.dtype).removeprefix("torch.")
    if as_json:
        steps = {need.step: {"total": totals[need.step], "above_the_weights": dict(need.parts)} for need in found}
        print_json(
            {
                "model": name,
                "dtype": kind,
                "weights": shape.weight_bytes,
                "free": free,
                "max_batch_tokens": most,
                "steps": steps,
            }
        )
        return
    told = "what is free is not known" if free is None else f"{_gb(free)} are free"
    screen.print(
        f"{name}: {shape.n_layers} layers, d_model {shape.d_model}, d_mlp {shape.d_mlp}; weights in {kind} take"
        f" {_gb(shape.weight_bytes)}; on {place} {told}",
        soft_wrap=True,
    )
    table = Table("step", "peak", "fits", "above the weights", box=None)
    for need in found:
        fits = "?" if free is None else "yes" if totals[need.step] <= free else "NO"
        largest = sorted(need.parts.items(), key=lambda part: -part[1])[:2]
        table.add_row(
            need.step, _gb(totals[need.step]), fits, ", ".join(f"{what} {_gb(size)}" for what, size in largest)
        )
    screen.print(table)
    screen.print(
        f"Prompts of {tokens} tokens, {samples} samples, {most[0]} tokens at once ({most[1]} with gradients);"
        + (f" Python and its libraries take {_gb(LIBRARIES)} besides;" if place.type == "cpu" else "")
        + " measured peaks are at most a quarter above the estimates. A step that does not fit runs in smaller batches"
        " where it can (max_batch_tokens is halved); weights and second moments cannot.",
        soft_wrap=True,
    )


def _at_once(shape: Shape, place: torch.device, free: int | None, *, gradients: bool) -> int:
    """The batch limit that would be chosen."""
    from interp.engine.batches import tokens_that_fit

    return tokens_that_fit(
        n_layers=shape.n_layers,
        d_model=shape.d_model,
        d_mlp=shape.d_mlp,
        bytes_each=shape.bytes_each,
        device=place.type,
        free=free,
        gradients=gradients,
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"


def _answer_row(answer: TopAnswer) -> dict[str, Any]:
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
