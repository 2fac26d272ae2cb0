"""The memory that locating and editing will take, from a model's shape alone, before anything is loaded.

Each step holds the weights and, at its highest:

- **load**: attention weights in both layouts, the file's and the one that is fast.
- **trace**: the base runs (residual stream, keys, values and sublayer outputs of each sample), what a block keeps of
  the tokens that run at once, and logits of the rows that are read off.
- **attribution scores**: the same for one run, but of every block, as a backward pass needs it.
- **edit**: a layer's second moment in both number formats and its factor, and what the backward pass of the target
  value needs.
- **second moments**: the sums of two halves of the text, and what becomes of them.
- **text** that the model writes itself for them: keys and values of a batch of rows.

How many numbers a block keeps of a token, and how often a second moment is there at once, was measured
(``python -m benchmarks.large_model``): peaks are at most a quarter above the estimates. What is in the
thousandth of the memory of a machine, the allocator's and the libraries' own, is counted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from interp.engine.batches import KEPT
from interp.models.shape import Shape

__all__ = ["LIBRARIES", "Need", "Work", "needs"]

LIBRARIES = 600 * 2**20
"""What Python and the libraries take by themselves on a CPU (measured)."""
AT_WORK = 32 * 2**20
"""What the first products of a process take besides (measured)."""
KEPT_BACKWARD, GATE = (18, 3), 2
"""Those that wait for the backward pass; of a gated MLP so many widths more."""
LOGITS, LOGITS_BACKWARD, LOGITS_SAMPLED = 12, 16, 32
"""Bytes a logit, with what is computed from it."""
FACTORISED, ESTIMATED = 24, 80
"""Bytes an entry of a second moment, where it is solved with and where it is estimated (measured)."""
READOUT_ROWS, STEPS, TEXT_ROWS, TEXT_LENGTH, MOMENT_TOKENS = 512, 20, 160, 64, 1024
"""Of the defaults: rows read off at once, nodes of the quadrature, rows and tokens of a text's batch, and the tokens at
once of second moments."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done with the model; the defaults are those of the commands.

    Args:
        tokens: Of a prompt.
        samples: Of causal tracing.
        contexts: In which an edit is optimised, the essence prompt included.
        batch_tokens: That go up the network at once, without gradients.
        gradient_tokens: With them.
    """

    tokens: int = 16
    samples: int = 10
    contexts: int = 7
    batch_tokens: int = 2048
    gradient_tokens: int = 1024


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a step holds at its highest.

    Args:
        step: Its name.
        parts: Bytes above the weights, by what they are.
    """

    step: str
    parts: Mapping[str, int]

    @property
    def more(self) -> int:
        """Above the weights."""
        return sum(self.parts.values())


def needs(shape: Shape, work: Work | None = None) -> list[Need]:
    """What each step needs, in bytes above the weights.

    Args:
        shape: Of the model.
        work: What is to be done.
    """
    work = work or Work()
    return [
        Need(step="load", parts={"attention weights laid out anew": _attention(shape)}),
        _trace(shape, work),
        _attribution(shape, work),
        _edit(shape, work),
        _second_moments(shape),
        _text(shape),
    ]


def _attention(shape: Shape) -> int:
    heads = 2 * (shape.n_heads + shape.kv_heads)
    return shape.n_layers * shape.d_model * heads * shape.d_head * shape.bytes_each


def _trace(shape: Shape, work: Work) -> Need:
    rows = shape.n_layers * work.samples
    at_once = min(work.batch_tokens, rows * work.tokens)
    return Need(
        step="trace",
        parts={
            "base runs": _run(shape, 1 + work.samples, work.tokens, 2),
            "tokens at once": at_once * _token(shape, KEPT),
            "logits": min(rows, READOUT_ROWS, at_once) * shape.d_vocab * LOGITS,
            "libraries at work": AT_WORK,
        },
    )


def _attribution(shape: Shape, work: Work) -> Need:
    rows = max(1, min(work.gradient_tokens // work.tokens, STEPS * shape.n_layers))
    climbing = sum(min(rows, STEPS * joined) for joined in range(1, shape.n_layers))
    return Need(
        step="attribution scores",
        parts={
            "base run": _run(shape, 1, work.tokens, 1),
            "activations and scores": 4 * 4 * shape.n_layers * work.tokens * shape.d_mlp,
            "blocks, for the backward pass": climbing * work.tokens * _backward(shape),
            "logits": rows * shape.d_vocab * LOGITS_BACKWARD,
            "libraries at work": AT_WORK,
        },
    )


def _edit(shape: Shape, work: Work) -> Need:
    at_once = min(work.gradient_tokens, work.contexts * work.tokens)
    return Need(
        step="edit",
        parts={
            "second moment and its factor": FACTORISED * shape.d_mlp**2,
            "blocks, for the backward pass": at_once * shape.n_layers * _backward(shape),
            "logits": work.contexts * shape.d_vocab * LOGITS_BACKWARD,
            "a weight that is hashed": shape.d_vocab * shape.d_model * shape.bytes_each,
            "libraries at work": AT_WORK,
        },
    )


def _second_moments(shape: Shape) -> Need:
    return Need(
        step="second moments",
        parts={
            "sums of two halves, and what becomes of them": ESTIMATED * shape.d_mlp**2,
            "tokens at once": MOMENT_TOKENS * _token(shape, KEPT),
            "libraries at work": AT_WORK,
        },
    )


def _text(shape: Shape) -> Need:
    numbers = 2 * shape.n_layers * TEXT_ROWS * TEXT_LENGTH * shape.kv_heads * shape.d_head
    return Need(
        step="text",
        parts={
            "keys and values, and room to grow": numbers * shape.bytes_each * 5 // 4,
            "logits": TEXT_ROWS * shape.d_vocab * LOGITS_SAMPLED,
            "tokens at once": TEXT_ROWS * _token(shape, KEPT),
            "libraries at work": AT_WORK,
        },
    )


def _run(shape: Shape, samples: int, tokens: int, records: int) -> int:
    """As :func:`interp.engine.base_runs.run_bytes` has it of a loaded model."""
    per_token = (shape.n_layers + 1) * shape.d_model + 2 * shape.n_layers * shape.kv_heads * shape.d_head
    per_token += records * shape.n_layers * shape.d_model
    return samples * tokens * per_token * shape.bytes_each


def _token(shape: Shape, widths: tuple[int, int]) -> int:
    return (widths[0] * shape.d_model + widths[1] * shape.d_mlp) * shape.bytes_each


def _backward(shape: Shape) -> int:
    resid, hidden = KEPT_BACKWARD
    return _token(shape, (resid, hidden + (GATE if shape.gated else 0)))
