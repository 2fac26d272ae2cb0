"""Modules of a Hugging Face model as the parameters of a HookedTransformer, by name and as views of their weights.

For families whose conversion TransformerLens does not have, or has without their biases. What is missing here (a bias
that a model does not have) is zero there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformer_lens import HookedTransformerConfig

__all__ = [
    "Linear",
    "attention",
    "decoder",
    "gated_mlp",
    "linear",
    "llama_weights",
    "mlp",
    "named",
    "norm",
    "projections",
    "rows",
]

Linear = tuple[Tensor, Tensor | None]
"""A weight [d_out, d_in], and a bias [d_out] or None."""


def linear(module: nn.Linear) -> Linear:
    """A module's weight and bias."""
    return module.weight, module.bias


def rows(fused: nn.Linear, *sizes: int) -> tuple[Linear, ...]:
    """Several linear maps of one input that are kept as one, below each other."""
    weights = fused.weight.split([*sizes])
    biases = [None] * len(sizes) if fused.bias is None else fused.bias.split([*sizes])
    return tuple(zip(weights, biases, strict=True))


def attention(
    cfg: HookedTransformerConfig, queries: Linear, keys: Linear, values: Linear, out: Linear
) -> dict[str, Tensor]:
    """A block's attention, its heads one after the other in each map."""
    grouped = "" if cfg.n_key_value_heads is None else "_"
    found = {}
    for letter, mark, (weight, bias) in (("Q", "", queries), ("K", grouped, keys), ("V", grouped, values)):
        found[f"attn.{mark}W_{letter}"] = weight.unflatten(0, (-1, cfg.d_head)).transpose(1, 2)
        if bias is not None:
            found[f"attn.{mark}b_{letter}"] = bias.unflatten(0, (-1, cfg.d_head))
    weight, bias = out
    found["attn.W_O"] = weight.unflatten(1, (-1, cfg.d_head)).permute(1, 2, 0)
    if bias is not None:
        found["attn.b_O"] = bias
    return found


def projections(cfg: HookedTransformerConfig, module: Any, out: str = "o_proj") -> dict[str, Tensor]:
    """A block's attention from a module that has its maps as ``q_proj``, ``k_proj``, ``v_proj`` and ``out``."""
    return attention(cfg, *(linear(getattr(module, name)) for name in ("q_proj", "k_proj", "v_proj", out)))


def mlp(up: nn.Linear, down: nn.Linear) -> dict[str, Tensor]:
    """A block's MLP: ``act(x W_in + b_in) W_out + b_out``."""
    found = {"mlp.W_in": up.weight.T, "mlp.W_out": down.weight.T}
    biases = {"mlp.b_in": up.bias, "mlp.b_out": down.bias}
    return found | {name: bias for name, bias in biases.items() if bias is not None}


def gated_mlp(gate: Tensor, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """A block's MLP from weights [d_out, d_in]: ``(act(x W_gate) * (x W_in)) W_out``, without biases."""
    return {"mlp.W_gate": gate.T, "mlp.W_in": up.T, "mlp.W_out": down.T}


def norm(name: str, module: Any) -> dict[str, Tensor]:
    """A norm's gain, and its bias if it has one."""
    bias = getattr(module, "bias", None)
    return {f"{name}.w": module.weight} | ({} if bias is None else {f"{name}.b": bias})


def named(
    embedding: Tensor, blocks: Iterable[Mapping[str, Tensor]], final: Mapping[str, Tensor], head: Linear
) -> dict[str, Tensor]:
    """All parameters by name.

    Args:
        embedding: [d_vocab, d_model].
        blocks: Those of each block, named as within it.
        final: The last norm, named ``ln_final``.
        head: The unembedding.
    """
    found = {"embed.W_E": embedding, **final, "unembed.W_U": head[0].T}
    if head[1] is not None:
        found["unembed.b_U"] = head[1]
    for layer, block in enumerate(blocks):
        found |= {f"blocks.{layer}.{name}": value for name, value in block.items()}
    return found


def decoder(
    hf_model: Any, block: Callable[[Any], Mapping[str, Tensor]], final: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """All parameters of a model whose outer modules are named as Llama's.

    Args:
        hf_model: The model.
        block: The parameters of a layer, named as within its block.
        final: The last norm, named ``ln_final``.
    """
    inner = hf_model.model
    return named(inner.embed_tokens.weight, map(block, inner.layers), final, linear(hf_model.lm_head))


def llama_weights(
    hf_model: Any, cfg: HookedTransformerConfig, *, ln2: str = "post_attention_layernorm"
) -> dict[str, Tensor]:
    """The weights of a model whose modules are named as Llama's, with biases of its attention if it has some.

    Args:
        hf_model: The model.
        cfg: What was made of its config.
        ln2: The norm that the MLP reads through.
    """

    def block(layer: Any) -> dict[str, Tensor]:
        gated = layer.mlp
        return {
            **norm("ln1", layer.input_layernorm),
            **norm("ln2", getattr(layer, ln2)),
            **projections(cfg, layer.self_attn),
            **gated_mlp(gated.gate_proj.weight, gated.up_proj.weight, gated.down_proj.weight),
        }

    return decoder(hf_model, block, norm("ln_final", hf_model.model.norm))
