"""Fields of a HookedTransformerConfig that several families share: each reads settings, and says which are covered."""

from __future__ import annotations

from typing import Any

from interp.errors import ModelError, excerpt
from interp.models.families.rope import longest_context, rope_fields
from interp.models.families.settings import Settings

__all__ = [
    "MAX_CONTEXT",
    "alike_within_the_window",
    "context",
    "gpt_fields",
    "llama_fields",
    "partly_rotary",
    "rotary_dim",
    "rotary_fields",
    "summary_head",
]

MAX_CONTEXT = 2048
"""Longest context that is set up: HookedTransformer keeps rotary tables of this length, and facts are short."""

ATTENTION = ("full_attention", "sliding_attention")


def context(*longest: int | None) -> int:
    """The shortest of these and of :data:`MAX_CONTEXT`; None is no limit."""
    return min([MAX_CONTEXT, *(length for length in longest if length is not None)])


def gpt_fields(given: Settings) -> dict[str, Any]:
    """What GPT-2 and GPT-J share."""
    width = given.whole("n_embd")
    given.without_effect("n_ctx")  # a former name of n_positions
    summary_head(given)
    return {
        "d_model": width,
        "d_head": given.divided("n_embd", "n_head"),
        "n_heads": given.whole("n_head"),
        "d_mlp": given.whole("n_inner", 4 * width),
        "n_layers": given.whole("n_layer"),
        "n_ctx": context(given.whole("n_positions")),
        "eps": given.value("layer_norm_epsilon"),
        "d_vocab": given.whole("vocab_size"),
        "act_fn": given.value("activation_function"),
        "normalization_type": "LN",
    }


def summary_head(given: Settings) -> None:
    """Settings of a head for other tasks, which the first configs of several families have."""
    summary = ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")
    given.without_effect(*(f"summary_{name}" for name in summary))


def rotary_fields(given: Settings) -> dict[str, Any]:
    """What families with rotary positions share; within a sliding window, attention that slides is attention."""
    head_dim = given.value("head_dim")
    d_head = given.divided("hidden_size", "num_attention_heads") if head_dim is None else given.whole("head_dim")
    window = given.whole("sliding_window", MAX_CONTEXT)
    rope = given.part("rope_parameters")
    return {
        "d_model": given.whole("hidden_size"),
        "d_head": d_head,
        "n_heads": given.whole("num_attention_heads"),
        "d_mlp": given.whole("intermediate_size"),
        "n_layers": given.whole("num_hidden_layers"),
        "n_ctx": context(given.whole("max_position_embeddings"), window, longest_context(rope)),
        "d_vocab": given.whole("vocab_size"),
        "act_fn": given.value("hidden_act"),
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        **rope_fields(rope),
    }


def llama_fields(given: Settings, *, attention_bias: bool = False) -> dict[str, Any]:
    """What Llama shares with those that came after it: RMS norms, gated MLPs, grouped keys and values.

    Args:
        given: The settings.
        attention_bias: Whether the family's conversion reads biases of queries, keys, values and outputs where
            there are some. Biases within a gated MLP have no place in HookedTransformer's.
    """
    fields = rotary_fields(given)
    if attention_bias:
        given.without_effect("attention_bias")  # found with the weights
    else:
        given.must_be(attention_bias=False)
    given.must_be(mlp_bias=False)
    given.divided("num_attention_heads", "num_key_value_heads")
    return {
        **fields,
        "eps": given.value("rms_norm_eps"),
        "rotary_dim": rotary_dim(fields["d_head"], fields["d_head"]),
        "n_key_value_heads": given.whole("num_key_value_heads"),
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
    }


def alike_within_the_window(given: Settings) -> None:
    """Settings that say which layers slide, where no prompt is longer than the window of those that do.

    Raises:
        ModelError: If a layer is of another kind.
    """
    kinds = given.value("layer_types", [])
    if not isinstance(kinds, list) or any(kind not in ATTENTION for kind in kinds):
        raise ModelError(f"layer_types must be a list of {' and '.join(ATTENTION)}, got {excerpt(kinds)}")
    given.without_effect("use_sliding_window", "max_window_layers")  # which of them slide


def partly_rotary(given: Settings, d_head: int) -> int:
    """How many dimensions of a head turn where the settings name a share.

    Raises:
        ModelError: If the share is none, or gives no even number of dimensions.
    """
    return rotary_dim(int(d_head * given.part("rope_parameters").share("partial_rotary_factor", 1.0)), d_head)


def rotary_dim(value: Any, d_head: int) -> int:
    """How many dimensions of a head turn.

    Raises:
        ModelError: If it is no even number of them.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= d_head or value % 2:
        raise ModelError(f"rotary dimensions must be an even number from 2 to {d_head}, got {excerpt(value)}")
    return value
