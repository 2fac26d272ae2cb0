"""Put many prompts to a model at once, each row under its own patch: with the target given, greedily, or sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformer_lens import HookedTransformer

from interp.engine.forward import unembed
from interp.engine.generation import generate
from interp.engine.suffix import padded
from interp.models.tokens import decode
from interp.patches.patch import Patch
from interp.patches.row_hooks import row_hooks

__all__ = ["greedy", "sampled", "teacher_forced"]

TOP_K = 5  # of sampled texts, as in ROME's published code

Ids = Sequence[int]


def teacher_forced(
    model: HookedTransformer,
    pairs: Sequence[tuple[Ids, tuple[int, ...]]],
    patches: Sequence[Patch | None],
    max_batch_tokens: int,
) -> list[tuple[tuple[int, ...], float]]:
    """What the model says where the tokens of a target stand, given those before.

    Args:
        model: The model.
        pairs: Prompt and target. Targets that read the same row (single tokens after one prompt) share it.
        patches: Which patch each pair is read under.
        max_batch_tokens: The most tokens at once.

    Returns:
        Per pair the top token at each target token, and the target's mean log-probability per token in nats.
    """
    rows: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for i, ((prompt, target), patch) in enumerate(zip(pairs, patches, strict=True)):
        rows.setdefault(((*prompt, *target[:-1]), id(patch)), []).append(i)
    members = list(rows.items())
    found: list[tuple[tuple[int, ...], float]] = [((), 0.0)] * len(pairs)
    for batch in _batches([len(row) for (row, _), _ in members], max_batch_tokens):
        tokens, _ = padded([members[b][0][0] for b in batch], model.W_E.device)
        reading = [(r, i) for r, b in enumerate(batch) for i in members[b][1]]
        at = [(r, len(pairs[i][0]) - 1 + j) for r, i in reading for j in range(len(pairs[i][1]))]
        with torch.no_grad():
            final = model.run_with_hooks(
                tokens,
                prepend_bos=False,
                stop_at_layer=model.cfg.n_layers,
                fwd_hooks=list(row_hooks(model, [patches[members[b][1][0]] for b in batch])),
            )
            logits = unembed(model, final[[r for r, _ in at], [p for _, p in at]])
        wanted = torch.tensor([token for _, i in reading for token in pairs[i][1]], device=logits.device)
        top = logits.argmax(-1).tolist()
        log_p = logits.float().log_softmax(-1).gather(-1, wanted[:, None])[:, 0].tolist()
        first = 0
        for _, i in reading:
            n = len(pairs[i][1])
            found[i] = (tuple(top[first : first + n]), sum(log_p[first : first + n]) / n)
            first += n
    return found


def greedy(
    model: HookedTransformer,
    prompts: Sequence[Ids],
    lengths: Sequence[int],
    patches: Sequence[Patch | None],
    max_batch_tokens: int,
) -> list[tuple[int, ...]]:
    """The likeliest continuation of each prompt by its number of tokens."""
    generated: list[tuple[int, ...]] = [()] * len(prompts)
    for length in sorted(set(lengths)):
        members = [i for i, own in enumerate(lengths) if own == length]
        for batch in _batches([len(prompts[i]) + length for i in members], max_batch_tokens):
            rows = [members[b] for b in batch]
            hooks = row_hooks(model, [patches[i] for i in rows])
            added = generate(model, [prompts[i] for i in rows], length, hooks=hooks)
            for i, ids in zip(rows, added.tolist(), strict=True):
                generated[i] = tuple(ids)
    return generated


def sampled(
    model: HookedTransformer,
    prompts: Sequence[Ids],
    n_tokens: int,
    seeds: Sequence[int],
    patches: Sequence[Patch | None],
    max_batch_tokens: int,
) -> list[str]:
    """Texts that the model writes after each prompt, without special tokens."""
    texts = [""] * len(prompts)
    for batch in _batches([len(prompt) + n_tokens for prompt in prompts], max_batch_tokens):
        added = generate(
            model,
            [prompts[i] for i in batch],
            n_tokens,
            top_k=TOP_K,
            seeds=[seeds[i] for i in batch],
            hooks=row_hooks(model, [patches[i] for i in batch]),
        )
        for i, ids in zip(batch, added.tolist(), strict=True):
            texts[i] = decode(model, ids, special=False)
    return texts


def _batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Indices in batches of about equal length."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > limit:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
