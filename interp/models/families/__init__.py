"""The families, a file each, and the table of them: a new one is a file that ends in a ``FAMILY``, and a line here.

The table holds where each of these stands, not what it is, by the name that Hugging Face gives to the architecture.
A family of one's own, from anywhere, may be put into the table as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.errors import ModelError, excerpt
from interp.system.tables import entry_named

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.models.families.family import Family

__all__ = ["FAMILIES", "family_named", "family_of"]

FAMILIES: dict[str, str | Family] = {
    "GPT2LMHeadModel": "gpt2.FAMILY",
    "GPTJForCausalLM": "gptj.FAMILY",
    "GPTNeoXForCausalLM": "neox.FAMILY",
    "LlamaForCausalLM": "llama.FAMILY",
    "MistralForCausalLM": "mistral.FAMILY",
    "Qwen2ForCausalLM": "qwen2.FAMILY",
    "Qwen3ForCausalLM": "qwen3.FAMILY",
    "GemmaForCausalLM": "gemma.FAMILY",
    "Gemma2ForCausalLM": "gemma2.FAMILY",
    "Gemma3ForCausalLM": "gemma3.FAMILY",
    "PhiForCausalLM": "phi.FAMILY",
    "Phi3ForCausalLM": "phi3.FAMILY",
    "OlmoForCausalLM": "olmo.FAMILY",
    "Olmo2ForCausalLM": "olmo2.FAMILY",
    "SmolLM3ForCausalLM": "smollm3.FAMILY",
    "StableLmForCausalLM": "stablelm.FAMILY",
    "GlmForCausalLM": "glm.FAMILY",
    "CohereForCausalLM": "cohere.FAMILY",
    "FalconForCausalLM": "falcon.FAMILY",
    "Starcoder2ForCausalLM": "starcoder2.FAMILY",
    "GPTNeoForCausalLM": "gpt_neo.FAMILY",
    "OPTForCausalLM": "opt.FAMILY",
    "BloomForCausalLM": "bloom.FAMILY",
    "MixtralForCausalLM": "mixtral.FAMILY",
    "OlmoeForCausalLM": "olmoe.FAMILY",
}
"""In the order in which their models are listed."""


CAUSAL = "ForCausalLM"
"""How the names of most end."""


def family_named(architecture: str) -> Family:
    """The family of an architecture.

    Raises:
        ModelError: If it is not supported, with those that are.
    """
    if architecture not in FAMILIES:
        supported = ", ".join(name.removesuffix(CAUSAL) for name in FAMILIES)
        raise ModelError(f"architecture {excerpt(architecture)[1:-1]} is not supported; supported are {supported}")
    found: Family = entry_named(architecture, FAMILIES, __name__)
    return found


def family_of(model: HookedTransformer) -> Family:
    """The family that a loaded model is of.

    Raises:
        ModelError: If its architecture is not supported, with those that are.
    """
    return family_named(str(model.cfg.original_architecture))
