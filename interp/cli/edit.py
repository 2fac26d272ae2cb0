"""The command edit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Base,
    Context,
    Device,
    DType,
    ExactTarget,
    Json,
    Method,
    Model,
    Occurrence,
    app,
    check_writable,
    digest,
    load,
    path_option,
    refuse_given,
    target_text,
    typed_answer,
    typed_fact,
)
from interp.cli.console import messages
from interp.cli.patch import show_before_after
from interp.cli.precision import MatmulPrecision, multiplying
from interp.cli.progress import bar
from interp.editing.methods import DEFAULT_EDITOR
from interp.errors import OptionError
from interp.options import check_positive

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.editing import Corpus, EditConfig
    from interp.facts.records import EditRequest
    from interp.patches import Patch


@app.command()
@multiplying
def edit(
    context: Context,
    prompt: Annotated[
        str | None, typer.Argument(help="It ends right before the answer; {} may stand for the subject.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="The subject as it stands in the prompt.")] = None,
    target: Annotated[str | None, typer.Option(help="The new answer.")] = None,
    exact_target: ExactTarget = False,
    occurrence: Occurrence = None,
    cases: Annotated[str | None, path_option(help="Instead of one prompt: a file of edit cases, all in one.")] = None,
    sequential: Annotated[bool, typer.Option("--sequential", help="The cases one after the other.")] = False,
    batch_size: Annotated[int, typer.Option(help="With --sequential: so many cases in each turn.")] = 1,
    model: Model = "smollm2-135m",
    base: Base = None,
    method: Method = DEFAULT_EDITOR,
    layer: Annotated[
        int | None, typer.Option(help="Edit here (of several layers: the last); by default the method's.")
    ] = None,
    where: Annotated[
        Path | None, path_option(help="Edit where this file says: where.json, which interp where wrote for the model.")
    ] = None,
    identity: Annotated[bool, typer.Option("--identity", help="Without second moments (C = identity).")] = False,
    corpus: Annotated[str, path_option(help="Of the second moments: self, a text file or hub:NAME:CONFIG.")] = "self",
    corpus_tokens: Annotated[int | None, typer.Option(help="Its tokens; by default enough for the model.")] = None,
    seed: Annotated[int, typer.Option(help="Of the contexts and the corpus.")] = 0,
    out: Annotated[Path | None, path_option(help="Where to save the patch; runs/METHOD-ID.patch by default.")] = None,
    device: Device = None,
    dtype: DType = "float32",
    matmul_precision: MatmulPrecision = "highest",
    as_json: Json = False,
) -> None:
    """Edit one fact (or a file of cases together), show the answers before and after, save the patch."""
    _check_options(context, cases, identity)
    requests = _requests(prompt, subject, target, cases, exact_target, occurrence)
    if layer is not None and layer < 0:
        raise OptionError(f"layer must be a whole number from 0, got {layer}")
    if where is not None:
        refuse_given(context, "--where says which layers", "layer")
    with bar("starting"):
        import interp.editing as editing
        from interp.editing.making import in_turns

        editor = editing.editor_named(method)
    if not editor.sites:
        why = f"{method} takes neither second moments nor contexts"
        refuse_given(context, why, "identity", "corpus", "corpus_tokens", "seed")
    if not sequential:
        refuse_given(context, "it is for --sequential", "batch_size")
    check_positive(batch_size=batch_size)
    if len(requests) > 1 and editor.one_at_a_time and not sequential:
        raise OptionError(f"{method} edits one fact at a time, and {cases} has {len(requests)}: add --sequential")
    if batch_size > 1 and editor.one_at_a_time:
        raise OptionError(f"{method} edits one fact at a time: --batch-size must be 1, got {batch_size}")
    sized: Any = {} if corpus_tokens is None else {"tokens": corpus_tokens}
    text = editing.Corpus(source=corpus, seed=seed, **sized)
    network = load(model, device, dtype, base)
    config = editing.default_config(network, method, layer, where=where)
    editing.check_config(network, method, config)
    in_turns(network, editor, requests, batch_size if sequential else None)  # before the second moments are estimated
    given = [repr(requests), repr(config), model, dtype, matmul_precision, repr(text), identity, sequential]
    given += [] if base is None else [base]
    given += [] if batch_size == 1 else [f"batches of {batch_size}"]
    key = digest(given)
    place = out or Path("runs") / f"{method}-{key}.patch"
    check_writable(place.parent)
    patch = _made(network, requests, method, config, text, identity, batch_size if sequential else None)
    patch.save(place)
    _show(network, patch, place, as_json)


def _made(
    network: HookedTransformer,
    requests: list[EditRequest],
    method: str,
    config: EditConfig,
    text: Corpus,
    identity: bool,
    batch_size: int | None,
) -> Patch:
    """The patch, and what is being done from the first second on."""
    import interp.editing as editing

    settings: dict[str, Any] = {}
    if editing.editor_named(method).sites:
        with bar("writing contexts"):
            settings["contexts"] = editing.write_contexts(network, seed=text.seed)
        settings["second_moments"] = "identity"
        if not identity:
            with bar("second moments (kept for the next edit)") as advance:
                settings["second_moments"] = editing.second_moments(
                    network, config.edited_layers, text, progress=advance
                )
    make: Any = editing.edit if batch_size is None else partial(editing.edit_sequentially, batch_size=batch_size)
    with bar(f"editing with {editing.editor_named(method).title}") as advance:
        patch: Patch = make(network, requests, method=method, config=config, progress=advance, **settings)
    return patch


def _show(network: HookedTransformer, patch: Patch, place: Path, as_json: bool) -> None:
    from dataclasses import asdict, replace

    data = {
        "patch": str(place),
        "method": patch.method,
        "config": patch.config,
        "outcomes": [asdict(outcome) for outcome in patch.outcomes],
        "norms": patch.norms(),
    }
    show_before_after(network, patch, [(r.fact.prompt, r.new_target) for r in patch.requests], as_json, data)
    for request, outcome in zip(patch.requests, patch.outcomes, strict=True):
        what = f"{request.fact.prompt!r} is not answered {request.new_target!r}"
        if outcome.took is False:
            messages.print(f"did not take: with the patch {what}", soft_wrap=True)
        elif not outcome.converged:
            messages.print(f"not converged: {what} in every context that was optimised", soft_wrap=True)
    if len(patch.requests) == 1:
        (request,) = patch.requests
        said = target_text(network, replace(request.fact, target=request.new_target)).removeprefix("; ")
        messages.print(said, soft_wrap=True)
    messages.print(f"wrote {place}", soft_wrap=True)


def _check_options(context: Context, cases: str | None, identity: bool) -> None:
    """Refuse what cannot act without second moments, or with a file of cases."""
    if identity:
        refuse_given(context, "--identity takes no second moments", "corpus", "corpus_tokens")
    if cases is None:
        refuse_given(context, "there is one edit; it is for --cases", "sequential")
    else:
        why = "--cases brings its own prompts, subjects and targets"
        refuse_given(context, why, "prompt", "subject", "target", "exact_target", "occurrence")


def _requests(
    prompt: str | None,
    subject: str | None,
    target: str | None,
    cases: str | None,
    exact: bool,
    occurrence: int | None,
) -> list[EditRequest]:
    """One request as it was typed, or those of a file."""
    from interp.facts.case_files import load_cases
    from interp.facts.records import EditRequest

    if cases is not None:
        return [case.request for case in load_cases(cases)]
    typed = {"prompt": prompt, "--subject": subject, "--target": target}
    if prompt is None or subject is None or target is None:
        lacking = [name for name, value in typed.items() if value is None]
        raise OptionError(f"an edit needs a prompt, --subject and --target (or --cases); missing: {', '.join(lacking)}")
    fact = typed_fact(prompt, subject, None, occurrence=occurrence)
    return [EditRequest(fact, new_target=typed_answer(fact.prompt, target, exact, "new target"))]
