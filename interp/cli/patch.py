"""Commands that take a saved patch: evaluate, and patch show / apply / export; and the answers before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import Cases, Device, DType, FluencyTokens, Json, app, load, path_argument, path_option
from interp.cli.console import messages, print_json, screen
from interp.cli.progress import bar
from interp.errors import DataError, OptionError
from interp.evaluation.measures import MEASURES

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.evaluation import CaseEvaluation
    from interp.facts.records import EditCase
    from interp.patches import Patch

patch_app = typer.Typer(no_args_is_help=True, help="Look at a saved patch, ask the patched model, export it.")
app.add_typer(patch_app, name="patch")

PatchFile = Annotated[Path, path_argument(help="A file written by interp edit.")]
EVALUATE = (
    "What a patch did, question by question, before and after. "
    f"Measured as far as one case tells it: {', '.join(MEASURES)}."
)
TOP = 5


@app.command(help=EVALUATE)
def evaluate(
    patch_file: PatchFile,
    cases: Cases = "builtin",
    case: Annotated[str | None, typer.Option(help="Id of the case; by default those that the patch edits.")] = None,
    model: Annotated[str | None, path_option(help="The model; by default the one the patch was made for.")] = None,
    fluency_tokens: FluencyTokens = 100,
    seed: Annotated[int, typer.Option(help="Of the tokens sampled for fluency.")] = 0,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Show what a patch did to cases (:data:`EVALUATE`)."""
    from interp.evaluation import evaluate_each
    from interp.facts.case_files import load_cases
    from interp.options import check_positive

    check_positive(fluency_tokens=fluency_tokens)
    patch = _loaded(patch_file)
    chosen = _chosen(patch, load_cases(cases), cases, case)
    network = _network(patch, model, device, dtype)
    with bar(f"asking {len(chosen)} case(s) before and after"):
        found = evaluate_each(network, [patch] * len(chosen), chosen, fluency_tokens=fluency_tokens, seed=seed)
    if as_json:
        print_json([_evaluation_data(evaluation) for evaluation in found])
        return
    for evaluation in found:
        _show_evaluation(evaluation)


@patch_app.command("show")
def show(patch_file: PatchFile, as_json: Json = False) -> None:
    """What a patch is: method, edits, layers, norms, the weights it was made for."""
    from dataclasses import asdict

    patch = _loaded(patch_file)
    data = {
        "method": patch.method,
        "requests": [
            {"prompt": request.fact.prompt, "subject": request.fact.subject, "new_target": request.new_target}
            for request in patch.requests
        ],
        "outcomes": [asdict(outcome) for outcome in patch.outcomes],
        "layers": list(patch.layers),
        "norms": patch.norms(),
        "config": patch.config,
        "provenance": asdict(patch.provenance),
    }
    if as_json:
        print_json(data)
        return
    for request, outcome in zip(patch.requests, patch.outcomes, strict=True):
        ended = (
            ""
            if outcome.optimised_probability is None
            else f"; p = {outcome.optimised_probability:.3f} over contexts, {outcome.steps} steps"
        )
        if outcome.probability is not None:
            ended += f"; p = {outcome.probability:.3f} in the patched model"
        state = "" if outcome.converged else ", not converged"
        state += ", did not take" if outcome.took is False else ""
        screen.print(
            f"{request.fact.prompt!r} -> {request.new_target!r} by {patch.method}{ended}{state}", soft_wrap=True
        )
    for layer, norm in patch.norms().items():
        screen.print(f"layer {layer}: |delta W_out| = {norm:.4g}")
    made = patch.provenance
    screen.print(f"made for {made.model}, weights {made.weights_hash}, {made.dtype}", soft_wrap=True)


@patch_app.command("apply")
def apply(
    patch_file: PatchFile,
    prompt: Annotated[str | None, typer.Argument(help="What to ask; by default the edited prompt.")] = None,
    model: Annotated[str | None, path_option(help="The model; by default the one the patch was made for.")] = None,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Ask the model with and without the patch."""
    patch = _loaded(patch_file)
    network = _network(patch, model, device, dtype)
    request = patch.requests[0]
    asked = (request.fact.prompt, request.new_target) if prompt is None else (prompt.rstrip(), None)
    show_before_after(network, patch, [asked], as_json, {"patch": str(patch_file)})


@patch_app.command("export")
def export(
    patch_file: PatchFile,
    folder: Annotated[Path, path_argument(help="The folder to write; it must not exist or be empty.")],
    format: Annotated[str, typer.Option(help="lora (a PEFT adapter) or hf (a full Hugging Face model).")] = "lora",
    model: Annotated[str | None, path_option(help="The model; by default the one the patch was made for.")] = None,
    device: Device = None,
    dtype: DType = "float32",
) -> None:
    """Write the patch as a LoRA adapter, or the patched model as a Hugging Face folder."""
    from interp.options import check_choice
    from interp.patches.export import export_hugging_face, export_lora

    check_choice("format", format, ("lora", "hf"))
    patch = _loaded(patch_file)
    network = _network(patch, model, device, dtype)
    written = (export_lora if format == "lora" else export_hugging_face)(patch, network, folder)
    messages.print(f"wrote {written}", soft_wrap=True)


def _chosen(patch: Patch, candidates: list[EditCase], source: str, wanted: str | None) -> list[EditCase]:
    """The case of an id, or those that ask about the patch's edits (:func:`interp.evaluation.cases_of`)."""
    if wanted is not None:
        chosen = [case for case in candidates if case.id == wanted]
        if not chosen:
            raise DataError(f"{source}: no case has the id {wanted!r}; name one with --case")
        return chosen
    from interp.evaluation import cases_of

    try:
        return cases_of(patch, candidates)
    except OptionError as error:
        raise DataError(f"{source}: {error}; name one with --case") from error


def _loaded(path: Path) -> Patch:
    from interp.patches import Patch

    return Patch.load(path)


def _network(patch: Patch, model: str | None, device: str | None, dtype: str) -> HookedTransformer:
    """The model that is named, or the one that the patch was made for, over the base that it was given."""
    if model is not None:
        return load(model, device, dtype)
    made = patch.provenance
    return load(made.model, device, dtype, made.source.get("given_base"))


def _answers(network: HookedTransformer, prompt: str, target: str | None) -> dict[str, Any]:
    import torch

    from interp.engine.forward import unembed
    from interp.models.tokens import encode_continuation, token_text

    ids, target_ids = encode_continuation(network, prompt, target)
    if not ids or len(ids) > network.cfg.n_ctx:
        raise OptionError(f"the prompt takes {len(ids)} tokens; the context holds 1 to {network.cfg.n_ctx}")
    tokens = torch.tensor([ids], device=network.W_E.device)
    with torch.no_grad():
        final = network(tokens, prepend_bos=False, stop_at_layer=network.cfg.n_layers)
        probabilities = unembed(network, final[0, -1]).float().softmax(-1)
    best = probabilities.topk(TOP)
    top = [(token_text(network, i), p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    first = None if target is None else float(probabilities[target_ids[0]])
    return {"top": top, "target_probability": first}


def show_before_after(
    network: HookedTransformer,
    patch: Patch,
    asked: list[tuple[str, str | None]],
    as_json: bool,
    data: dict[str, Any],
) -> None:
    """The likeliest answers of the model without and with the patch."""
    with bar("asking before and after") as advance:
        before = [_answers(network, prompt, target) for prompt, target in asked]
        advance(1, 2)
        with patch.applied(network):
            after = [_answers(network, prompt, target) for prompt, target in asked]
    if as_json:
        answers = [
            {"prompt": prompt, "target": target, "before": was, "after": now}
            for (prompt, target), was, now in zip(asked, before, after, strict=True)
        ]
        print_json({**data, "answers": answers})
        return
    from rich.table import Table

    if len(asked) > 1:
        table = Table("prompt", "wanted", "p before", "p after", "top answer", box=None)
        for (prompt, target), was, now in zip(asked, before, after, strict=True):
            values = [f"{entry['target_probability']:.3f}" for entry in (was, now)]
            table.add_row(prompt, target, *values, now["top"][0][0])
        screen.print(table)
        return
    prompt, target = asked[0]
    screen.print(prompt, soft_wrap=True)
    table = Table("before", "p", "after", "p", box=None)
    for (one, p), (other, q) in zip(before[0]["top"], after[0]["top"], strict=True):
        table.add_row(repr(one), f"{p:.3f}", repr(other), f"{q:.3f}")
    screen.print(table)
    if target is not None:
        was, now = before[0]["target_probability"], after[0]["target_probability"]
        screen.print(f"p({target!r}) = {was:.4f} before, {now:.4f} after (its first token)", soft_wrap=True)


def _evaluation_data(evaluation: CaseEvaluation) -> dict[str, Any]:
    from dataclasses import asdict

    from interp.evaluation import PROTOCOLS

    before, after = evaluation.scores(None, edited=False), evaluation.scores(None)
    return {
        "case": evaluation.case,
        "method": evaluation.method,
        "layers": list(evaluation.layers),
        "scores": {
            protocol: {"before": evaluation.scores(protocol, edited=False), "after": evaluation.scores(protocol)}
            for protocol in PROTOCOLS
        },
        **{name: {"before": before[name], "after": after[name]} for name in after},
        "questions": [
            {**asdict(question), "before": asdict(before), "after": asdict(after)}
            for question, before, after in zip(evaluation.questions, evaluation.before, evaluation.after, strict=True)
        ],
    }


def _show_evaluation(evaluation: CaseEvaluation) -> None:
    from rich.table import Table

    from interp.evaluation import PERCENT, PROTOCOLS, measure_named

    asked = Table("", "prompt", "expected", "before", "after", title=evaluation.case, title_justify="left", box=None)
    for question, before, after in zip(evaluation.questions, evaluation.before, evaluation.after, strict=True):
        kind = f"{question.metric}{'/' if question.kind else ''}{question.kind}"
        asked.add_row(kind, question.prompt, question.target, before.text, after.text)
    screen.print(asked)
    table = Table("", *PROTOCOLS)
    under = [(evaluation.scores(protocol, edited=False), evaluation.scores(protocol)) for protocol in PROTOCOLS]
    for name in evaluation.scores():
        unit = measure_named(name).unit
        heading = name if unit == PERCENT else f"{name}, {unit.name}"
        table.add_row(heading, *(_arrow(was[name], now[name], unit.scale, ".0f") for was, now in under))
    screen.print(table)
    was, now = evaluation.scores(None, edited=False), evaluation.scores(None)
    for name in now:
        unit = measure_named(name).unit
        screen.print(f"{name} {_arrow(was[name], now[name], unit.scale, '.1f')}")


def _arrow(before: float | None, after: float | None, scale: float, form: str) -> str:
    return "-" if before is None or after is None else f"{scale * before:{form}} -> {scale * after:{form}}"
