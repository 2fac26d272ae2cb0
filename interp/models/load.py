"""Models: the embedded one, a Hugging Face name or a local folder, as a HookedTransformer.

The weights are *unprocessed* (no folded LayerNorm, no centring), so that a change of W_out means the same in
the original model, and lie in memory the way matrix multiplication wants them: HookedTransformer would
otherwise copy transposed weights in every forward pass. Parameters are frozen; gradients are taken with respect
to activations only.
"""

from __future__ import annotations

import contextlib
import difflib
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained import weight_conversions
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from interp.errors import InterpError, ModelError, OptionError, excerpt
from interp.models import embedded
from interp.models.config import MODEL_TYPES, architecture_of, hooked_config
from interp.models.folder import check_vocabulary, check_weights, model_source
from interp.models.tokens import front_tokens

__all__ = [
    "KNOWN_MODELS",
    "check_differentiable",
    "check_linear_output",
    "default_device",
    "load_hugging_face",
    "load_model",
    "weights_hash",
]

HUB = constants.ENDPOINT

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

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

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

    Example:
        >>> model = interp.load_model(folder)  # or "smollm2-135m", "gpt2-xl", "EleutherAI/pythia-1b"
        >>> model.cfg.n_layers, model.cfg.d_model
        (6, 64)

    Args:
        name: ``"smollm2-135m"`` (embedded, no network), a folder in Hugging Face format (``~`` is the home folder),
            or a Hugging Face name, of the GPT-2, GPT-J, GPT-NeoX/Pythia, Llama, Mistral or Qwen2 family. Weights are
            read from safetensors files only, and no code that comes with a model is run.
        dtype: Number format of weights and activations.
        device: Where to put it; CUDA when present by default.

    Returns:
        A HookedTransformer in evaluation mode; ``cfg.model_name`` is ``name``, and
        ``cfg.default_prepend_bos`` says whether the model's own tokenizer puts a token (BOS) in front.

    Raises:
        ModelError: If the name is unknown (with the nearest known ones), cannot be reached, or the
            architecture or one of its settings is not supported; if a folder is damaged, quantised, an adapter, or
            its files do not fit each other.
        OptionError: If the device or the number format does not exist.
    """
    target = _checked_device(device)
    if dtype not in _DTYPES:
        known = ", ".join(map(str, _DTYPES))
        raise OptionError(f"dtype must be one of {known}, got {excerpt(dtype)}")
    hf_model, tokenizer = load_hugging_face(name, dtype)
    try:
        return from_hugging_face(hf_model, tokenizer, name=str(name), device=target)
    except (InterpError, MemoryError):
        raise
    except Exception as error:  # settings of others that pass every check make the libraries raise anything
        label = f"model {excerpt(str(name), 240)}"
        raise ModelError(_unreadable(str(name), label, True, error)) from error


def load_hugging_face(name: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """The Hugging Face model and tokenizer behind a name that :func:`load_model` takes, on the CPU.

    Weights are read from safetensors files only, and no code that comes with them is run.

    Raises:
        ModelError: If the name is unknown, cannot be reached, or the architecture is not supported, or if a folder
            is damaged, quantised, an adapter, or its files do not fit each other.
    """
    source = embedded.folder() if str(name) == embedded.NAME else model_source(name)
    is_folder = isinstance(source, Path)
    if isinstance(source, str) and not _is_cached(source):
        _check_hub(source)
    label = f"model {'folder ' if is_folder else ''}{excerpt(str(source), 240)}"
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            hooked_config(architecture_of(config), config)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            check_vocabulary(tokenizer, config)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # to name them
                output_loading_info=True,
            )
            check_weights(*loaded)
        except MemoryError:
            raise
        except ModelError as error:
            raise ModelError(f"{label}: {error}") from error
        except Exception as error:  # files of others make the libraries that read them raise anything
            raise ModelError(_unreadable(str(source), label, is_folder, error)) from error
    return loaded[0], tokenizer


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Loading says what is wrong in an error, and nothing beside it."""
    show_bar, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if show_bar:
            transformers_logging.enable_progress_bar()


def from_hugging_face(
    hf_model: PreTrainedModel, tokenizer: Any, *, name: str, device: str | torch.device = "cpu"
) -> HookedTransformer:
    """Wrap a loaded Hugging Face model; the HookedTransformer's parameters share its storage where they can.

    Raises:
        ModelError: If the architecture or one of its settings is not supported.
    """
    architecture = (hf_model.config.architectures or [type(hf_model).__name__])[0]
    if architecture not in MODEL_TYPES:
        raise ModelError(f"architecture {architecture} is not supported; supported are {', '.join(MODEL_TYPES)}")
    cfg = HookedTransformerConfig(
        **hooked_config(architecture, hf_model.config),
        original_architecture=architecture,
        model_name=name,
        dtype=hf_model.dtype,
        device=str(device),
        init_weights=False,
        default_prepend_bos=len(front_tokens(tokenizer)) > 0,
    )
    hf_model = hf_model.to(device)  # type: ignore[arg-type]
    state = {
        key: _as_matmul_wants(key, value.detach().to(device=device, dtype=hf_model.dtype))
        for key, value in _CONVERTERS[architecture](hf_model, cfg).items()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        # without the tokenizer: TransformerLens would read its folder again, and make one that adds a BOS token
        model = HookedTransformer(cfg, move_to_device=False)
    model.tokenizer = tokenizer  # the one that the model was trained with
    model.cfg.tokenizer_prepends_bos = cfg.default_prepend_bos
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token  # what TransformerLens does, for to_tokens(prepend_bos=True)
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
    0.1 s for the embedded model; pass an :class:`interp.results.Provenance` to locators that are called in a loop.
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


def check_differentiable(model: HookedTransformer) -> None:
    """Refuse weights that no gradient can pass.

    Raises:
        OptionError: Naming the model.
    """
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise OptionError(
            f"the weights of {model.cfg.model_name} were made under torch.inference_mode, where no gradient passes"
            " them: load the model outside of it"
        )


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
    except (ValueError, OSError) as error:  # no name that a hub could have
        raise ModelError(_unreachable(name, HFValidationError(str(error)))) from error


def _check_hub(name: str) -> None:
    """One quick question, so that a machine without network gets its answer at once and not after retries."""
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        urllib.request.urlopen(urllib.request.Request(HUB, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError as answer:  # it answers
        answer.close()
    except OSError as error:
        raise ModelError(_unreachable(name, error)) from error


def _unreadable(name: str, label: str, is_folder: bool, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = reason if isinstance(error, OSError) else f"{type(error).__name__}: {reason}"
    if is_folder or not isinstance(error, (OSError, HFValidationError)):
        return f"{label} cannot be read: {reason if len(reason) <= 400 else reason[:399] + '…'}"
    return _unreachable(name, error)


def _unreachable(name: str, error: Exception) -> str:
    near = difflib.get_close_matches(name[:80], KNOWN_MODELS, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near and name not in KNOWN_MODELS else ""
    causes = set()
    cause: BaseException | None = error
    while cause is not None:
        causes.add(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    shown = excerpt(name, 240)
    if causes & {"RepositoryNotFoundError", "GatedRepoError", "HFValidationError"}:
        return f"model {shown} is not on the Hugging Face hub (or needs a login){hint}"
    if causes & {"EntryNotFoundError", "RemoteEntryNotFoundError"}:
        return f"model {shown} on the Hugging Face hub lacks a file: {' '.join(str(error).split())[:300]}"
    return (
        f"model {shown} is neither embedded nor in the local cache, and the Hugging Face hub cannot be "
        f"reached{hint} (embedded, without network: {embedded.NAME})"
    )


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
