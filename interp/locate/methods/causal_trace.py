"""Causal tracing: corrupt the subject, restore one state, see how much of the answer comes back.

1. Clean run: the model's probability p(answer) on the prompt.
2. Corrupted run: the embeddings of the subject's tokens get noise (``samples`` draws), or the subject is replaced
   by another one of the same length (symmetric token replacement). The answer becomes unlikely.
3. Restored run of cell (t, l): as the corrupted run, but one state is put back to its clean value: the residual
   stream at token t after block l, or the MLP or attention outputs at token t in a window of blocks around l.
4. Score of a cell: p(answer) in the restored run, averaged over samples. Indirect effect: score - corrupted.

Cells of tokens before the subject equal the corrupted run (nothing there was corrupted), and so do states after
the last block of other tokens than the last: neither is computed. The rest is one :func:`interp.engine.sweep.sweep`
per token: about T*L/4 block rows of full length instead of T*L*L.

Sources: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2 and appendix B;
symmetric replacement and logit difference: Zhang & Nanda 2023, "Towards Best Practices of Activation Patching".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace as replace_fields
from functools import partial as bound
from typing import Literal

from transformer_lens import HookedTransformer

from interp.engine.cells import STATE_NAMES, STATES, Cell, State
from interp.engine.corruption import Corruption
from interp.engine.pairs import Corrupting
from interp.facts.records import Fact
from interp.locate.method import LocateTask, Locator, shared_task
from interp.locate.methods.causal_trace_pool import Metric, TraceOptions, check_states, traced
from interp.locate.methods.causal_trace_record import HUES, CausalTrace
from interp.options import Progress, check_choice
from interp.results.record import Provenance, provenance
from interp.results.token_map import TokenMap

__all__ = ["ATTN", "MLP", "RESID", "CausalTrace", "causal_trace"]


def causal_trace(
    model: HookedTransformer,
    fact: Fact,
    *,
    state: State = "resid",
    window: int = 10,
    samples: int = 10,
    noise: float | Literal["3sigma"] = "3sigma",
    seed: int = 1,
    corruption: Corruption = "gaussian",
    replace: bool = False,
    metric: Metric = "probability",
    sever: Literal["mlp", "attn"] | None = None,
    reference_facts: Sequence[Fact] | None = None,
    max_batch_tokens: int | None = None,
    model_provenance: Provenance | None = None,
    progress: Progress | None = None,
    partial: Callable[[CausalTrace], None] | None = None,
) -> CausalTrace:
    """Trace a fact through the model (see the module for the steps).

    Example:
        >>> trace = interp.causal_trace(model, fact, state="mlp", window=3)
        >>> round(trace.clean_probability, 2), round(trace.corrupted_probability, 2)
        (0.99, 0.13)
        >>> trace.indirect_effect.shape  # [token, layer]
        torch.Size([10, 6])

    Args:
        model: A HookedTransformer decoder (:func:`interp.engine.base_runs.check_decoder`); left as it was found.
        fact: What to trace. Its answer is the first token of its target, or the model's own top answer.
        state: What is restored: the residual stream after one block, or the MLP or attention outputs of
            ``window`` blocks.
        window: Number of blocks for ``mlp`` and ``attn``, centred as in the published code
            (:func:`window_layers`); not used for ``resid``.
        samples: Noise draws, or (symmetric) at most so many other subjects.
        noise: Standard deviation of the noise, or ``"3sigma"``: three times that of the subject embeddings of
            ``reference_facts``.
        seed: Of the noise: ``numpy.random.RandomState(seed)``, the same in every cell, as published; or of the
            draw of other subjects.
        corruption: ``gaussian`` or ``uniform`` noise on the subject's embeddings, or ``symmetric``
            replacement by other subjects of the same relation and token length with another answer.
        replace: Put the noise in the place of the embeddings instead of adding it.
        metric: What is read off: the answer's probability, its log, or its logit minus the foil's.
        sever: Also hold the MLP or attention outputs at the restored token to their corrupted values in all
            blocks, to see what carries the effect.
        reference_facts: Where ``"3sigma"`` and replacement subjects come from; the built-in facts if None.
        max_batch_tokens: The most tokens a block runs on at once; bounds memory, does not change numbers. Chosen from
            the memory that is free if None.
        model_provenance: To spare hashing the weights in a loop.
        progress: Called from time to time with (work done, work in all): cells, each times the tokens that run for
            it. What it raises stops the work.
        partial: Called with the result so far, after each token, from the last one back to the subject; what is not
            there yet is NaN.

    Raises:
        OptionError: If an option is not one of the above, ``sever`` is what is restored, the model does not have what
            is restored or severed, or the runs do not fit into memory.
        FactError: If the fact does not fit the model, or no replacement subject is found.
        ModelError: If the model's runs cannot be continued.
        NumericalError: If the model returns NaN or infinite logits.

    Warns:
        InterpWarning: If it will take hours.
    """
    check_choice("state", state, STATES)
    corrupting = Corrupting(
        samples=samples, noise=noise, seed=seed, corruption=corruption, replace=replace, reference_facts=reference_facts
    )
    options = TraceOptions(
        window=window, corrupting=corrupting, metric=metric, sever=sever, max_batch_tokens=max_batch_tokens
    )
    found: list[CausalTrace] = []

    def arrived(state: State, fact: int, make: Callable[[], CausalTrace], complete: bool) -> None:
        if partial or complete:
            so_far = make()
            if partial:
                partial(so_far)
            if complete:
                found.append(so_far)

    check_states(model, [state], sever)
    described = model_provenance or provenance(model)
    traced(model, [fact], {state: [0]}, options, described, progress or (lambda *_: None), arrived)
    return found[-1]


def _run(task: LocateTask, state: State) -> CausalTrace:
    return causal_trace(
        task.model,
        task.fact,
        state=state,
        window=task.window,
        samples=task.samples,
        noise=task.noise,
        seed=task.seed,
        corruption=task.corruption,  # type: ignore[arg-type]
        reference_facts=task.reference_facts,
        **task.shared(),
    )


def _run_many(
    asked: Sequence[tuple[str, LocateTask]], progress: Progress, arrived: Callable[[int, CausalTrace], None]
) -> None:
    """Facts and states at once; a locator is named like what it restores."""
    task = shared_task(asked)
    facts = list(dict.fromkeys(each.fact for _, each in asked))
    places: dict[tuple[str, int], list[int]] = {}
    for place, (name, each) in enumerate(asked):
        places.setdefault((name, facts.index(each.fact)), []).append(place)
    states = {name: [fact for of, fact in places if of == name] for name, _ in places}

    def noted(state: State, fact: int, make: Callable[[], CausalTrace], complete: bool) -> None:
        for place in places[state, fact] if complete else ():
            arrived(place, make())

    corrupting = Corrupting(
        samples=task.samples,
        noise=task.noise,
        seed=task.seed,
        corruption=task.corruption,  # type: ignore[arg-type]
        reference_facts=task.reference_facts,
    )
    options = TraceOptions(window=task.window, corrupting=corrupting, max_batch_tokens=task.max_batch_tokens)
    described = task.model_provenance or provenance(task.model)
    traced(task.model, facts, states, options, described, progress, noted)  # type: ignore[arg-type]


def _averaged(trace: CausalTrace) -> TokenMap:
    where = "one layer" if trace.state == "resid" else f"window of {trace.window}"
    title = f"Causal tracing: {_AVERAGED[trace.state]} ({where})"
    return replace_fields(trace.map(), title=title, unit="indirect effect on P(answer)")


_LOCATED_BY = {"resid": "Causal tracing (states)", "mlp": "Causal tracing", "attn": "Causal tracing (attention)"}
_AVERAGED = {"resid": "Residual stream", "mlp": "MLP output", "attn": "Attention output"}


def _locator(state: State, turn: int, doing: str) -> Locator:
    """The locator that restores a state."""

    def cell(token: int, layer: int, window: int) -> Cell:
        return (
            Cell(token=token, layer=layer)
            if state == "resid"
            else Cell(token=token, layer=layer, state=state, window=window)
        )

    return Locator(
        name=state,
        title=STATE_NAMES[state],
        hue=HUES[state],
        row=1,
        turn=turn,
        doing=doing,
        record=CausalTrace,
        run=bound(_run, state=state),
        averaged=_averaged,
        beside=lambda trace: trace.map("scores"),  # an edited model has another clean run: no effect is common to both
        about=lambda fact: {"fact": fact, "state": state},
        cell=cell,
        depends=frozenset({"noise", "samples", "seed"} | (set() if state == "resid" else {"window"})),
        located_by=_LOCATED_BY[state],
        run_many=_run_many,
    )


RESID = _locator("resid", 0, "tracing the residual stream")
MLP = _locator("mlp", 2, "tracing MLP outputs")
ATTN = _locator("attn", 3, "tracing attention outputs")
