"""Bare prompts with their targets, in batches: what an edit is fine-tuned on, and what a patched model is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.rows import edit_rows
from interp.engine.batches import groups
from interp.facts.records import EditRequest

__all__ = ["BareRows", "bare_rows"]


@dataclass(frozen=True, kw_only=True)
class BareRows:
    """One row per request: its prompt and all tokens of its target but the last.

    Args:
        ids: Token ids of each row.
        n_prompt: Tokens of its prompt: the target's first token is predicted at ``n_prompt - 1``.
        targets: Token ids of each target.
    """

    ids: tuple[tuple[int, ...], ...]
    n_prompt: tuple[int, ...]
    targets: tuple[tuple[int, ...], ...]

    def batches(self, max_batch_tokens: int) -> Iterator[list[int]]:
        """Rows of like length together, at most so many tokens with their padding (at least one row)."""
        order = sorted(range(len(self.ids)), key=lambda row: len(self.ids[row]), reverse=True)
        while order:
            length = len(self.ids[order[0]])
            batch = next(groups(order, [1] * len(order), length, max_batch_tokens))
            yield sorted(batch)
            order = order[len(batch) :]

    def reads(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Where the targets of some rows are predicted: the place of the row among them, and the position."""
        places = [place for place, row in enumerate(rows) for _ in self.targets[row]]
        positions = [self.n_prompt[row] - 1 + i for row in rows for i in range(len(self.targets[row]))]
        return places, positions

    def scores(
        self, logits: Float[Tensor, "read d_vocab"], rows: Sequence[int]
    ) -> tuple[Float[Tensor, "row"], Float[Tensor, "row"]]:
        """Per row the target's NLL per token in nats, and how many of its tokens are not on top; in float32.

        Args:
            logits: At the places that :meth:`reads` names.
            rows: Which rows.
        """
        places = torch.tensor(self.reads(rows)[0], device=logits.device)
        wanted = torch.tensor([token for row in rows for token in self.targets[row]], device=logits.device)
        lengths = torch.tensor([len(self.targets[row]) for row in rows], device=logits.device)
        log_p = logits.float().log_softmax(-1)
        zeros = torch.zeros(len(rows), device=logits.device)
        nll = -zeros.index_add(0, places, log_p.gather(-1, wanted[:, None])[:, 0]) / lengths
        return nll, zeros.index_add(0, places, (log_p.argmax(-1) != wanted).float())


def bare_rows(model: HookedTransformer, requests: Sequence[EditRequest]) -> BareRows:
    """Tokenise every request as it stands, without contexts.

    Raises:
        FactError: If a row is longer than the model's context.
    """
    rows = edit_rows(model, requests, (("{}",),))
    per = rows.n_contexts + 1  # without the essence prompts
    return BareRows(ids=rows.ids[::per], n_prompt=rows.n_prompt[::per], targets=rows.targets)
