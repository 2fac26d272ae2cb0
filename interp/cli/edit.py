"""Commands that edit: edit, evaluate, and patch show / apply / export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Cases,
    Device,
    DType,
    FluencyTokens,
    Json,
    Method,
    Model,
    app,
    bar,
    check_writable,
    digest,
    load,
    messages,
    print_json,
    screen,
)
from interp.errors import DataError, OptionError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.editing import Patch
    from interp.evaluation import CaseEvaluation
    from interp.facts import EditRequest

patch_app = typer.Typer(no_args_is_help=True, help="Look at a saved patch, ask the patched model, export it.")
app.add_typer(patch_app, name="patch")

PatchFile = Annotated[Path, typer.Argument(help="A file written by interp edit.")]
TOP = 5
ONE_AT_A_TIME = ("rome", "r-rome", "kn")


@app.command()
def edit(
    prompt: Annotated[
        str | None, typer.Argument(help="It ends right before the answer; {} may stand for the subject.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="The subject as it stands in the prompt.")] = None,
    target: Annotated[str | None, typer.Option(help="The new answer.")] = None,
    cases: Annotated[str | None, typer.Option(help="Instead of one prompt: a file of edit cases, all in one.")] = None,
    sequential: Annotated[bool, typer.Option("--sequential", help="The cases one after the other.")] = False,
    model: Model = "smollm2-135m",
    method: Method = "rome",
    layer: Annotated[
        int | None, typer.Option(help="Edit here (MEMIT, PMET: the last of five); by default the method's.")
    ] = None,
    identity: Annotated[bool, typer.Option("--identity", help="Without second moments (C = identity).")] = False,
    corpus: Annotated[str, typer.Option(help="Of the second moments: self, a text file or hub:NAME:CONFIG.")] = "self",
    corpus_tokens: Annotated[int, typer.Option(help="Its tokens.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of the contexts and the corpus.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to save the patch; runs/METHOD-ID.patch by default.")] = None,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Edit one fact (or a file of cases together), show the answers before and after, save the patch."""
    from dataclasses import asdict

    import interp.editing as editing
    from interp.editing.config import TargetConfig, config_layers

    requests = _requests(prompt, subject, target, cases)
    if len(requests) > 1 and method in ONE_AT_A_TIME and not sequential:
        raise OptionError(f"{method} edits one fact at a time, and {cases} has {len(requests)}: add --sequential")
    if layer is not None and layer < 0:
        raise OptionError(f"layer must be a whole number from 0, got {layer}")
    text = editing.Corpus(source=corpus, tokens=corpus_tokens, seed=seed)
    network = load(model, device, dtype)
    config = editing.default_config(network, method, layer)
    editing.check_config(network, method, config)
    editing.check_requests(network, requests)
    key = digest([repr(requests), repr(config), model, dtype, repr(text), identity, sequential])
    place = out or Path("runs") / f"{method}-{key}.patch"
    check_writable(place.parent)
    moments: Any = "identity"
    contexts: Any = (("{}",),)
    if isinstance(config, TargetConfig):
        contexts = editing.write_contexts(network, seed=seed)
        if not identity:
            with bar("second moments") as advance:
                moments = editing.second_moments(network, config_layers(config), text, progress=advance)
    with bar("editing") as advance:
        patch = (editing.edit_sequentially if sequential else editing.edit)(
            network,
            requests,
            method=method,
            config=config,
            second_moments=moments,
            contexts=contexts,
            progress=advance,
        )
    patch.save(place)
    data = {
        "patch": str(place),
        "method": method,
        "config": asdict(config),
        "outcomes": [asdict(outcome) for outcome in patch.outcomes],
        "norms": patch.norms(),
    }
    asked: list[tuple[str, str | None]] = [(request.fact.prompt, request.new_target) for request in requests]
    _show_before_after(network, patch, asked, as_json, data)
    for request, outcome in zip(patch.requests, patch.outcomes, strict=True):
        if outcome.took is False:
            messages.print(
                f"did not take: with the patch {request.fact.prompt!r} is not answered {request.new_target!r}",
                soft_wrap=True,
            )
        elif not outcome.converged:
            messages.print(
                f"not converged: {request.fact.prompt!r} is not answered {request.new_target!r} in every context that"
                " was optimised",
                soft_wrap=True,
            )
    messages.print(f"wrote {place}", soft_wrap=True)


@app.command()
def evaluate(
    patch_file: PatchFile,
    cases: Cases = "builtin",
    case: Annotated[str | None, typer.Option(help="Id of the case; by default those that the patch edits.")] = None,
    model: Annotated[str | None, typer.Option(help="The model; by default the one the patch was made for.")] = None,
    fluency_tokens: FluencyTokens = 100,
    seed: Annotated[int, typer.Option(help="Of the tokens sampled for fluency.")] = 0,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Reliability, generality, locality, portability and fluency of a patch, question by question."""
    from interp.cases import load_cases
    from interp.evaluation import evaluate_each
    from interp.options import check_positive

    check_positive(fluency_tokens=fluency_tokens)
    patch = _loaded(patch_file)
    candidates = load_cases(cases)
    edited = {(request.fact.subject, request.new_target) for request in patch.requests}
    chosen = [
        c for c in candidates if (c.id == case if case else (c.request.fact.subject, c.request.new_target) in edited)
    ]
    if not chosen:
        wanted = f"the id {case!r}" if case else f"this patch's edits {sorted(edited)}"
        raise DataError(f"{cases}: no case has {wanted}; name one with --case")
    network = load(model or patch.provenance.model, device, dtype)
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
    model: Annotated[str | None, typer.Option(help="The model; by default the one the patch was made for.")] = None,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Ask the model with and without the patch."""
    patch = _loaded(patch_file)
    network = load(model or patch.provenance.model, device, dtype)
    request = patch.requests[0]
    asked = (request.fact.prompt, request.new_target) if prompt is None else (prompt.rstrip(), None)
    _show_before_after(network, patch, [asked], as_json, {"patch": str(patch_file)})


@patch_app.command("export")
def export(
    patch_file: PatchFile,
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must not exist or be empty.")],
    format: Annotated[str, typer.Option(help="lora (a PEFT adapter) or hf (a full Hugging Face model).")] = "lora",
    model: Annotated[str | None, typer.Option(help="The model; by default the one the patch was made for.")] = None,
    device: Device = None,
    dtype: DType = "float32",
) -> None:
    """Write the patch as a LoRA adapter, or the patched model as a Hugging Face folder."""
    from interp.editing.export import export_hugging_face, export_lora
    from interp.options import check_choice

    check_choice("format", format, ("lora", "hf"))
    patch = _loaded(patch_file)
    network = load(model or patch.provenance.model, device, dtype)
    written = (export_lora if format == "lora" else export_hugging_face)(patch, network, folder)
    messages.print(f"wrote {written}", soft_wrap=True)


def _requests(prompt: str | None, subject: str | None, target: str | None, cases: str | None) -> list[EditRequest]:
    """One request as it was typed, or those of a file."""
    from interp.cases import load_cases
    from interp.facts import EditRequest, Fact, spaced_answer

    typed = {"prompt": prompt, "--subject": subject, "--target": target}
    if cases is not None:
        extra = [name for name, value in typed.items() if value is not None]
        if extra:
            raise OptionError(f"--cases brings its own prompts, subjects and targets: leave out {', '.join(extra)}")
        return [case.request for case in load_cases(cases)]
    if prompt is None or subject is None or target is None:
        lacking = [name for name, value in typed.items() if value is None]
        raise OptionError(f"an edit needs a prompt, --subject and --target (or --cases); missing: {', '.join(lacking)}")
    template = prompt.rstrip()
    fact = Fact(template=template, subject=subject) if "{}" in template else Fact.from_prompt(template, subject)
    return [EditRequest(fact, new_target=spaced_answer(fact.prompt, target))]


def _loaded(path: Path) -> Patch:
    from interp.editing import Patch

    return Patch.load(path)


def _answers(network: HookedTransformer, prompt: str, target: str | None) -> dict[str, Any]:
    import torch

    from interp.sweep import unembed
    from interp.tokens import encode_continuation, token_text

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


def _show_before_after(
    network: HookedTransformer,
    patch: Patch,
    asked: list[tuple[str, str | None]],
    as_json: bool,
    data: dict[str, Any],
) -> None:
    before = [_answers(network, prompt, target) for prompt, target in asked]
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

    return {
        "case": evaluation.case,
        "method": evaluation.method,
        "layers": list(evaluation.layers),
        "scores": {
            protocol: {"before": evaluation.scores(protocol, edited=False), "after": evaluation.scores(protocol)}
            for protocol in PROTOCOLS
        },
        "fluency": {"before": evaluation.fluency_before, "after": evaluation.fluency_after},
        "questions": [
            {**asdict(question), "before": asdict(before), "after": asdict(after)}
            for question, before, after in zip(evaluation.questions, evaluation.before, evaluation.after, strict=True)
        ],
    }


def _show_evaluation(evaluation: CaseEvaluation) -> None:
    from rich.table import Table

    from interp.evaluation import METRICS, PROTOCOLS

    asked = Table("", "prompt", "expected", "before", "after", title=evaluation.case, title_justify="left", box=None)
    for question, before, after in zip(evaluation.questions, evaluation.before, evaluation.after, strict=True):
        kind = f"{question.metric}{'/' if question.kind else ''}{question.kind}"
        asked.add_row(kind, question.prompt, question.target, before.text, after.text)
    screen.print(asked)
    table = Table("protocol", *METRICS)
    for protocol in PROTOCOLS:
        was, now = evaluation.scores(protocol, edited=False), evaluation.scores(protocol)
        table.add_row(protocol, *(_arrow(was[metric], now[metric]) for metric in METRICS))
    screen.print(table)
    screen.print(f"fluency {evaluation.fluency_before:.1f} -> {evaluation.fluency_after:.1f}")


def _arrow(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{100 * before:.0f} -> {100 * after:.0f}"
