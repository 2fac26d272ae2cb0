"""Models: the embedded one, a Hugging Face name or a local folder, as a HookedTransformer.

The weights are *unprocessed* (no folded LayerNorm, no centring), so that a change of W_out means the same in
the original model, and lie in memory the way matrix multiplication wants them: HookedTransformer would
otherwise copy transposed weights in every forward pass. Parameters are frozen; gradients are taken with respect
to activations only.
"""

from __future__ import annotations

import difflib
import logging
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from interp import embedded
from interp.errors import ModelError, OptionError

__all__ = ["KNOWN_MODELS", "check_linear_output", "default_device", "load_hugging_face", "load_model", "weights_hash"]

logger = logging.getLogger(__name__)

HUB = constants.ENDPOINT

MAX_CONTEXT = 2048
"""Longest context that is set up: HookedTransformer keeps an n_ctx x n_ctx mask, and facts are short."""

KNOWN_MODELS: Mapping[str, str] = {
    embedded.NAME: "SmolLM2-135M-Instruct, embedded: 30 layers, needs no network",
    "gpt2": "GPT-2 small, 12 layers",
    "gpt2-medium": "GPT-2 medium, 24 layers",
    "gpt2-large": "GPT-2 large, 36 layers",
    "gpt2-xl": "GPT-2 XL, 48 layers: the paper's model",
    "EleutherAI/gpt-j-6b": "GPT-J, 28 layers",
    "EleutherAI/pythia-160m": "Pythia, 12 layers",
    "EleutherAI/pythia-1b": "Pythia, 16 layers",
    "EleutherAI/pythia-2.8b": "Pythia, 32 layers",
    "EleutherAI/gpt-neox-20b": "GPT-NeoX, 44 layers",
    "HuggingFaceTB/SmolLM2-360M": "SmolLM2, 32 layers",
    "HuggingFaceTB/SmolLM2-1.7B": "SmolLM2, 24 layers",
    "meta-llama/Llama-3.2-1B": "Llama 3.2, 16 layers",
    "meta-llama/Llama-3.1-8B": "Llama 3.1, 32 layers",
    "mistralai/Mistral-7B-v0.3": "Mistral, 32 layers",
    "Qwen/Qwen2-0.5B": "Qwen2, 24 layers",
    "Qwen/Qwen2.5-1.5B": "Qwen2.5, 28 layers",
}
"""Names to start from; any other Hugging Face name or folder of the same families works as well."""

_CONVERTERS: Mapping[str, Callable[[Any, HookedTransformerConfig], dict[str, Tensor]]] = {
    "GPT2LMHeadModel": weight_conversions.convert_gpt2_weights,
    "GPTJForCausalLM": weight_conversions.convert_gptj_weights,
    "GPTNeoXForCausalLM": weight_conversions.convert_neox_weights,
    "LlamaForCausalLM": weight_conversions.convert_llama_weights,
    "MistralForCausalLM": weight_conversions.convert_mistral_weights,
    "Qwen2ForCausalLM": weight_conversions.convert_qwen2_weights,
}


def default_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(
    name: str | Path = embedded.NAME,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
) -> HookedTransformer:
    """Load a model with unprocessed weights, frozen, in the layout that is fast.

    Args:
        name: ``"smollm2-135m"`` (embedded, no network), a folder in Hugging Face format, or a Hugging Face name
            of the GPT-2, GPT-J, GPT-NeoX/Pythia, Llama, Mistral or Qwen2 family.
        dtype: Number format of weights and activations.
        device: Where to put it; CUDA when present by default.

    Returns:
        A HookedTransformer in evaluation mode; ``cfg.model_name`` is ``name``, and
        ``cfg.default_prepend_bos`` is what the model's own tokenizer does.

    Raises:
        ModelError: If the name is unknown (with the nearest known ones), cannot be reached, or the
            architecture or one of its settings is not supported.
        OptionError: If the device does not exist.
    """
    target = _checked_device(device)
    hf_model, tokenizer = load_hugging_face(name, dtype)
    model = from_hugging_face(hf_model, tokenizer, name=str(name), device=target)
    del hf_model  # the HookedTransformer holds views of its weights
    return model


def load_hugging_face(name: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """The Hugging Face model and tokenizer behind a name that :func:`load_model` takes, on the CPU.

    Raises:
        ModelError: If the name is unknown, cannot be reached, or the architecture is not supported.
    """
    source = embedded.folder() if str(name) == embedded.NAME else name
    path = Path(source)
    is_folder = path.is_dir()
    if not is_folder and (path.is_absolute() or str(source).startswith(".") or path.exists()):
        raise ModelError(f"model folder {str(source)!r} does not exist or is not a folder")
    if is_folder and not (path / "config.json").is_file():
        raise ModelError(f"model folder {str(source)!r} has no config.json")
    if not is_folder and not _is_cached(str(source)):
        _check_hub(str(source))
    show_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source)
        architecture = (getattr(config, "architectures", None) or ["unknown"])[0]
        if architecture not in _CONVERTERS:
            raise ModelError(
                f"{source}: architecture {architecture} is not supported; supported are " + ", ".join(_CONVERTERS)
            )
        tokenizer = AutoTokenizer.from_pretrained(source)
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, output_loading_info=True)
        hf_model, loading = loaded
        if loading["missing_keys"]:
            raise ModelError(f"{source}: the weights lack {', '.join(sorted(loading['missing_keys']))}")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(_unreachable(str(source), is_folder, error)) from error
    finally:
        if show_bar:
            transformers_logging.enable_progress_bar()
    return hf_model, tokenizer


def from_hugging_face(
    hf_model: PreTrainedModel, tokenizer: Any, *, name: str, device: str | torch.device = "cpu"
) -> HookedTransformer:
    """Wrap a loaded Hugging Face model; the HookedTransformer's parameters share its storage where they can.

    Raises:
        ModelError: If the architecture or one of its settings is not supported.
    """
    architecture = (hf_model.config.architectures or [type(hf_model).__name__])[0]
    cfg = HookedTransformerConfig(
        **_config(architecture, hf_model.config),
        original_architecture=architecture,
        model_name=name,
        dtype=hf_model.dtype,
        device=str(device),
        init_weights=False,
        default_prepend_bos=len(tokenizer("")["input_ids"]) > 0,
    )
    hf_model = hf_model.to(device)  # type: ignore[arg-type]
    state = {
        key: _as_matmul_wants(key, value.detach().to(device=device, dtype=hf_model.dtype))
        for key, value in _CONVERTERS[architecture](hf_model, cfg).items()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        model = HookedTransformer(cfg, tokenizer=tokenizer, move_to_device=False)
    # The clone that TransformerLens makes adds a BOS token; this is the tokenizer the model was trained with.
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = cfg.default_prepend_bos
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # on the left, HookedTransformer would take a leading BOS for padding
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    parameters = dict(model.named_parameters())
    absent = [key for key in missing if key in parameters and not _is_zero_bias(key)]
    if absent or unexpected:
        raise ModelError(f"{name}: weights do not fit: missing {absent}, unexpected {list(unexpected)}")
    for key in missing:
        if key in parameters:  # a bias this family does not have
            nn.init.zeros_(parameters[key])
    model.to(device, print_details=False)  # buffers and zero biases; parameters are there already
    _share_buffers(model)
    model.requires_grad_(False)
    return model.eval()


def weights_hash(model: HookedTransformer) -> str:
    """A 128-bit hash (xxh3) of every parameter's name, dtype, shape and bytes, as 32 hexadecimal digits.

    It depends on the values alone, not on their layout in memory or the device. It reads all weights: about
    0.1 s for the embedded model; pass an :class:`interp.Provenance` to locators that are called in a loop.
    """
    digest = xxhash.xxh3_128()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        value = parameter.detach()
        # hash the contiguous orientation and say which: W_out and W_out.T share bytes but not the axis order
        digest.update(value.contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_linear_output(model: HookedTransformer) -> None:
    """Refuse a model whose MLP output is not ``w @ W_out + b_out``, added to the residual stream as it is.

    Raises:
        OptionError: Naming the model.
    """
    cfg = model.cfg
    if cfg.attn_only or cfg.use_normalization_before_and_after or getattr(cfg, "num_experts", None):
        raise OptionError(f"{cfg.model_name}: attribution and editing need MLPs whose output is w @ W_out + b_out")


def _checked_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return default_device()
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:160]
        raise OptionError(f"device {str(device)!r} is not available: {reason}") from error
    if checked.type == "meta":
        raise OptionError("device 'meta' holds no weights")
    return checked


def _is_cached(name: str) -> bool:
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError as error:
        raise ModelError(_unreachable(name, False, error)) from error


def _check_hub(name: str) -> None:
    """One quick question, so that a machine without network gets its answer at once and not after retries."""
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError as answer:  # it answers
        answer.close()
    except OSError as error:
        raise ModelError(_unreachable(name, False, error)) from error


def _unreachable(name: str, is_folder: bool, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    if is_folder:
        return f"model folder {name!r} cannot be read: {reason}"
    near = difflib.get_close_matches(name, KNOWN_MODELS, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near and name not in KNOWN_MODELS else ""
    causes = set()
    cause: BaseException | None = error
    while cause is not None:
        causes.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if causes & {"RepositoryNotFoundError", "GatedRepoError", "HFValidationError"}:
        return f"model {name!r} is not on the Hugging Face hub (or needs a login){hint}"
    return (
        f"model {name!r} is neither embedded nor in the local cache, and the Hugging Face hub cannot be "
        f"reached{hint} (embedded, without network: {embedded.NAME})"
    )


def _config(architecture: str, hf: PreTrainedConfig) -> dict[str, Any]:
    """The HookedTransformerConfig fields of a Hugging Face config, or a ModelError for what is not covered."""
    if architecture not in _CONVERTERS:
        raise ModelError(f"architecture {architecture} is not supported; supported are {list(_CONVERTERS)}")
    if architecture == "GPT2LMHeadModel":
        return {
            "d_model": hf.n_embd,
            "d_head": hf.n_embd // hf.n_head,
            "n_heads": hf.n_head,
            "d_mlp": hf.n_inner or 4 * hf.n_embd,
            "n_layers": hf.n_layer,
            "n_ctx": min(hf.n_positions, MAX_CONTEXT),
            "eps": hf.layer_norm_epsilon,
            "d_vocab": hf.vocab_size,
            "act_fn": hf.activation_function,
            "use_attn_scale": hf.scale_attn_weights,
            "scale_attn_by_inverse_layer_idx": hf.scale_attn_by_inverse_layer_idx,
            "normalization_type": "LN",
        }
    if architecture == "GPTJForCausalLM":
        return {
            "d_model": hf.n_embd,
            "d_head": hf.n_embd // hf.n_head,
            "n_heads": hf.n_head,
            "d_mlp": hf.n_inner or 4 * hf.n_embd,
            "n_layers": hf.n_layer,
            "n_ctx": min(hf.n_positions, MAX_CONTEXT),
            "eps": hf.layer_norm_epsilon,
            "d_vocab": hf.vocab_size,
            "act_fn": hf.activation_function,
            "parallel_attn_mlp": True,
            "positional_embedding_type": "rotary",
            "rotary_dim": hf.rotary_dim,
            "rotary_adjacent_pairs": True,
            "normalization_type": "LN",
        }
    rope = _rope(architecture, hf)
    d_head = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    common = {
        "d_model": hf.hidden_size,
        "d_head": d_head,
        "n_heads": hf.num_attention_heads,
        "d_mlp": hf.intermediate_size,
        "n_layers": hf.num_hidden_layers,
        "n_ctx": min(hf.max_position_embeddings, MAX_CONTEXT, getattr(hf, "sliding_window", None) or MAX_CONTEXT),
        "d_vocab": hf.vocab_size,
        "act_fn": hf.hidden_act,
        "positional_embedding_type": "rotary",
        "rotary_adjacent_pairs": False,
        **rope,
    }
    if architecture == "GPTNeoXForCausalLM":
        if not getattr(hf, "attention_bias", True):
            raise ModelError("GPT-NeoX without attention bias is not supported")
        return {
            **common,
            "eps": hf.layer_norm_eps,
            "rotary_dim": int(d_head * hf.rope_parameters.get("partial_rotary_factor", 1.0)),
            "parallel_attn_mlp": hf.use_parallel_residual,
            "normalization_type": "LN",
        }
    if getattr(hf, "attention_bias", False) or getattr(hf, "mlp_bias", False):
        raise ModelError(f"{architecture} with attention_bias or mlp_bias is not supported")
    # Llama's converter takes n_key_value_heads=None for plain multi-head attention; the others want a number
    grouped = architecture != "LlamaForCausalLM" or hf.num_key_value_heads != hf.num_attention_heads
    return {
        **common,
        "eps": hf.rms_norm_eps,
        "rotary_dim": d_head,
        "n_key_value_heads": hf.num_key_value_heads if grouped else None,
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
    }


def _rope(architecture: str, hf: PreTrainedConfig) -> dict[str, Any]:
    rope = dict(hf.rope_parameters)
    kind = rope.get("rope_type", "default")
    fields: dict[str, Any] = {"rotary_base": rope["rope_theta"]}
    if kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    elif kind != "default":
        raise ModelError(f"{architecture} with {kind!r} rotary scaling is not supported")
    return fields


def _is_zero_bias(key: str) -> bool:
    return key.rsplit(".", 1)[-1].lstrip("_").startswith("b_")


def _as_matmul_wants(key: str, value: Tensor) -> Tensor:
    """The same values in the memory layout that HookedTransformer's forward multiplies with, without a copy.

    Per weight: W_Q, W_K, W_V are used as [(head d_head), d_model], W_O as [d_model, (head d_head)], the
    weights of gated MLPs and of the unembedding as [d_out, d_in].
    """
    kind = key.rsplit(".", 1)[-1].lstrip("_")
    if kind in ("W_Q", "W_K", "W_V"):
        return value.transpose(1, 2).contiguous().transpose(1, 2)
    if kind == "W_O":
        return value.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    if kind == "W_U" or (kind in ("W_in", "W_gate", "W_out")):
        return value if _either_way_contiguous(value) else value.T.contiguous().T
    return value.contiguous()


def _either_way_contiguous(value: Tensor) -> bool:
    return value.is_contiguous() or value.T.is_contiguous()


def _share_buffers(model: HookedTransformer) -> None:
    """Masks and rotary tables are the same in every block: keep one of each."""
    first = model.blocks[0].attn
    for block in model.blocks[1:]:
        for name, buffer in first.named_buffers(recurse=False):
            other = getattr(block.attn, name)
            if other.shape == buffer.shape and torch.equal(other, buffer):
                setattr(block.attn, name, buffer)
