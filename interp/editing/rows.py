"""The rows that an edit is made from: each request in each context, with the target, and "{subject} is a".

They run once through the network up to the edited layer; keys and values at the last subject token are read there,
and what is above is kept for :mod:`interp.engine.suffix`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.contexts import Contexts
from interp.engine.mlp_outputs import mlp_output
from interp.engine.suffix import padded, passes, run_rows
from interp.errors import FactError, OptionError
from interp.facts.records import EditRequest, Fact
from interp.models.tokens import tokenize

__all__ = ["EditRows", "check_requests", "edit_rows", "key_weights", "subject_keys"]

ESSENCE = "{} is a"
"""The prompt on which an edit should change nothing (ROME)."""


@dataclass(frozen=True, kw_only=True)
class EditRows:
    """Rows of several requests: for each request its contexts in order, then the essence prompt.

    Args:
        ids: Token ids: the prompt and all target tokens but the last; of the essence prompt those up to the subject's
            end.
        subject_last: Position of the last subject token, per row.
        n_prompt: Tokens of the prompt, per row: the target's first token is predicted at ``n_prompt - 1``.
        targets: Token ids of each request's target.
        n_contexts: Contexts per request.
    """

    ids: tuple[tuple[int, ...], ...]
    subject_last: tuple[int, ...]
    n_prompt: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]
    n_contexts: int


def check_requests(model: HookedTransformer, requests: Sequence[EditRequest], *, first: int = 0) -> None:
    """Refuse requests that cannot be edited together.

    Args:
        model: The model.
        requests: What is edited together.
        first: The number of the first of them, for the errors.

    Raises:
        OptionError: If there are none, or two of them want different answers to one prompt.
        FactError: If a target has no tokens of its own after its prompt or does not fit (names the request).
    """
    if not requests:
        raise OptionError("nothing to edit: no requests")
    wanted: dict[str, tuple[int, str]] = {}
    for index, request in enumerate(requests, start=first):
        prompt = request.fact.prompt
        before = wanted.setdefault(prompt, (index, request.new_target))
        if before[0] != index:
            raise OptionError(
                f"requests {before[0]} and {index} contradict each other or repeat: {prompt!r} is to be answered"
                f" {before[1]!r} and {request.new_target!r}"
            )
        try:
            tokenize(model, _wanted(request))
        except FactError as error:
            raise FactError(f"request {index}: {error}") from error


def edit_rows(model: HookedTransformer, requests: Sequence[EditRequest], contexts: Contexts) -> EditRows:
    """Tokenise every request in every context.

    Raises:
        FactError: If a row is longer than the model's context, or a context changes the target's tokens.
    """
    ids, last, n_prompt, targets = [], [], [], []
    flat = [context for kind in contexts for context in kind]
    for request in requests:
        fact = _wanted(request)
        essence = Fact(template=ESSENCE, subject=fact.subject)
        rows = [tokenize(model, fact.within(context), quiet=True) for context in flat]
        target = rows[0].target_ids
        targets.append(target)
        for context, row in zip(flat, rows, strict=True):
            if row.target_ids != target:
                raise FactError(
                    f"the target {fact.target!r} of {fact.prompt!r} becomes the tokens {list(row.target_strings)} in"
                    f" the context {context!r} and {list(rows[0].target_strings)} in {flat[0]!r}: leave this context"
                    " out"
                )
            n_prompt.append(len(row.ids))
            last.append(row.subject_span[1] - 1)
            ids.append((*row.ids.tolist(), *target[:-1]))
        row = tokenize(model, essence, quiet=True)
        end = row.subject_span[1]  # it is read at the last subject token, which sees nothing of " is a"
        n_prompt.append(end)
        last.append(end - 1)
        ids.append(tuple(row.ids[:end].tolist()))
    return EditRows(
        ids=tuple(ids),
        subject_last=tuple(last),
        n_prompt=tuple(n_prompt),
        targets=tuple(targets),
        n_contexts=len(flat),
    )


def _wanted(request: EditRequest) -> Fact:
    """The fact with its new answer."""
    return Fact(template=request.fact.template, subject=request.fact.subject, target=request.new_target)


def key_weights(contexts: Contexts, device: torch.device | str) -> Float[Tensor, "context"]:
    """Weight of each context in a mean key: the mean within each kind, then over kinds (MEMIT)."""
    weights = [1 / (len(contexts) * len(kind)) for kind in contexts for _ in kind]
    return torch.tensor(weights, device=device)


def subject_keys(
    model: HookedTransformer, rows: EditRows, layer: int, max_batch_tokens: int | None
) -> tuple[
    Float[Tensor, "row token d_model"],
    Float[Tensor, "row d_mlp"],
    dict[str, Float[Tensor, "row d_model"]],
]:
    """Run the rows through block ``layer``, so many tokens at once, and read it at the last subject token.

    Returns:
        The residual stream after the block; the keys (what enters W_out); and at the same token by name
        ``attn_out``, ``mlp_out`` (what W_out returns, before any norm), ``resid_pre`` and ``resid_post``.
    """
    block, device, output = f"blocks.{layer}.", model.W_E.device, mlp_output(model, layer)
    hooks = {name: f"{block}hook_{name}" for name in ("attn_out", "resid_pre")}
    hooks["key"] = f"{block}mlp.hook_post"
    lengths = [len(ids) for ids in rows.ids]
    after = torch.zeros(len(lengths), max(lengths), model.cfg.d_model, dtype=model.cfg.dtype, device=device)
    read: dict[str, list[Tensor]] = {}
    order: list[int] = []
    for members in passes(lengths, device, max_batch_tokens):
        tokens, _ = padded([rows.ids[row] for row in members], device)
        until, seen = run_rows(model, tokens, stop=layer + 1, record=[*hooks.values(), *output.names])
        after[members, : tokens.shape[1]] = until
        at = (list(range(len(members))), [rows.subject_last[row] for row in members])
        found = {name: seen[hook] for name, hook in hooks.items()}
        for name, states in (found | {"mlp_out": output.returned(seen), "resid_post": until}).items():
            read.setdefault(name, []).append(states[at])
        order += members
    back = torch.tensor(order, device=device).argsort()
    outputs = {name: torch.cat(parts)[back] for name, parts in read.items()}
    return after, outputs.pop("key"), outputs
