"""Activation patching: put chosen states of one run into another and see what the model answers.

1. A pair of finished runs (:mod:`interp.engine.pairs`): states come from the clean run and go into the corrupted ones,
   or come from another prompt's run and go into this prompt's.
2. The patched run differs from the base runs only at tokens from the first patched one on, and above the lowest
   patched block: one :func:`interp.engine.sweep.sweep` over that suffix, in which every cell is held at its token.
3. The likeliest next tokens of the source, the base and the patched runs, side by side; over several noise samples,
   of their mean distribution.

With one cell, the patched probability is that cell's score in :func:`interp.causal_trace`.
Sources: Meng et al. 2022, section 2.1; Zhang & Nanda 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.engine.base_runs import check_site
from interp.engine.cells import SITES, Cell, check_cells, window_layers
from interp.engine.forward import unembed, wide
from interp.engine.pairs import RunPair, check_current
from interp.engine.sweep import Join, Pin, Place, sweep
from interp.errors import OptionError
from interp.facts.records import Fact
from interp.models.tokens import token_text
from interp.options import whole_number
from interp.results.record import Provenance, Record, provenance

__all__ = ["Candidate", "PatchedRun", "Readout", "patch_activations", "patched_run", "read_out"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A next token and its probability."""

    token: str
    token_id: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class Readout:
    """What a run answers.

    Args:
        probability: Of the answer, mean over samples.
        standard_error: Of that over samples; NaN for a single one.
        top: The likeliest next tokens of the mean distribution, likeliest first.
    """

    probability: float
    standard_error: float
    top: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PatchedRun(Record):
    """What :func:`patch_activations` found.

    Args:
        fact: Whose prompt the states were put into.
        other: Whose prompt they come from; None if from the clean run of the same prompt.
        cells: Which states.
        answer, answer_id: The token whose probability counts.
        source, base, patched: What the runs answer.
        samples, noise, seed, corruption: Of the base runs.
    """

    fact: Fact
    other: Fact | None
    cells: tuple[Cell, ...]
    answer: str
    answer_id: int
    source: Readout
    base: Readout
    patched: Readout
    samples: int
    noise: float
    seed: int
    corruption: str


def patch_activations(
    pair: RunPair, cells: Sequence[Cell], *, top: int = 10, model_provenance: Provenance | None = None
) -> PatchedRun:
    """Put states of the source run into the base runs, all together.

    Example:
        >>> runs = interp.clean_and_corrupted(model, fact, noise=0.3)
        >>> patched = interp.patch_activations(runs, [interp.Cell(token=9, layer=4)])
        >>> [round(run.probability, 2) for run in (patched.source, patched.base, patched.patched)]
        [0.99, 0.14, 0.98]

    Args:
        pair: Runs of :func:`interp.clean_and_corrupted` or :func:`interp.prompt_pair`.
        cells: Which states.
        top: How many next tokens to name.
        model_provenance: To spare hashing the weights.

    Raises:
        OptionError: If there are no cells, one lies outside of the prompt or has no counterpart in the other
            prompt, or the model's weights changed since the runs.
        NumericalError: If the model returns NaN or infinite logits.
    """
    top = whole_number("top", top)
    check_current(pair)
    return patched_run(pair, cells, top, model_provenance)


def patched_run(pair: RunPair, cells: Sequence[Cell], top: int, model_provenance: Provenance | None) -> PatchedRun:
    """:func:`patch_activations` for runs that are known to be of the weights as they are."""
    check_cells(cells, len(pair.tokenized.ids), pair.model.cfg.n_layers)
    for cell in cells:
        if cell.state in SITES:
            check_site(pair.model, SITES[cell.state], f"a cell with state={cell.state!r}")
    start = min(cell.token for cell in cells)
    with torch.no_grad():
        last = len(pair.tokenized.ids) - 1 - start
        final = sweep(pair.model, pair.base, start, [_join(pair, cells, start)], [last])[:, 0]
        logits = unembed(pair.model, final)
    return PatchedRun(
        provenance=model_provenance or provenance(pair.model),
        fact=pair.fact,
        other=pair.other,
        cells=tuple(cells),
        answer=token_text(pair.model, pair.answer_id),
        answer_id=pair.answer_id,
        source=read_out(pair, pair.source_logits[None], top),
        base=read_out(pair, pair.base_logits, top),
        patched=read_out(pair, logits, top),
        samples=len(pair.base_logits),
        noise=pair.noise,
        seed=pair.seed,
        corruption=pair.corruption,
    )


def read_out(pair: RunPair, logits: Float[Tensor, "sample d_vocab"], top: int = 10) -> Readout:
    """The likeliest next tokens, and the answer's probability."""
    distribution = wide(logits).softmax(-1)
    answer = distribution[:, pair.answer_id]
    n = len(answer)
    values, ids = distribution.mean(0).topk(min(top, distribution.shape[-1]))
    return Readout(
        probability=float(answer.mean()),
        standard_error=float(answer.std() / n**0.5) if n > 1 else float("nan"),
        top=tuple(
            Candidate(token=token_text(pair.model, token_id), token_id=token_id, probability=value)
            for value, token_id in zip(values.tolist(), ids.tolist(), strict=True)
        ),
    )


def _join(pair: RunPair, cells: Sequence[Cell], start: int) -> Join:
    """The base runs from the lowest block on that a cell changes, with every cell held at its token."""
    n_layers, base = pair.model.cfg.n_layers, pair.base
    samples = torch.arange(base.resid.shape[1], device=base.resid.device)
    blocks = {
        cell: range(cell.layer, cell.layer + 1)
        if cell.state == "resid"
        else window_layers(cell.layer, cell.window, n_layers)
        for cell in cells
    }
    # a residual stream that is replaced after a block enters above it; a sublayer's output needs its block to run
    lowest = min(held.start + (cell.state == "resid") for cell, held in blocks.items())
    resid = base.resid[lowest, :, start:].clone()
    pins = []
    for cell, held in blocks.items():
        token = pair.counterparts[cell.token]
        if token is None:
            raise OptionError(
                f"token {cell.token} ({pair.tokenized.strings[cell.token]!r}) has no counterpart in the other prompt"
            )
        if cell.state == "resid":
            state = pair.source.resid[cell.layer + 1, :, token]
            if cell.layer + 1 == lowest:
                resid[:, cell.token - start] = state
                continue
            values = state[None]
        else:
            values = pair.source.output(SITES[cell.state])[held.start : held.stop, :, token]
        site: Place = SITES.get(cell.state, "resid_post")
        pins.append(Pin(site=site, layers=held, values=values, token=cell.token - start))
    return Join(layer=lowest, resid=resid, samples=samples, pins=tuple(pins))
