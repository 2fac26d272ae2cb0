"""Models: the embedded one, a Hugging Face name or a local folder, as a HookedTransformer.

The weights are *unprocessed* (no folded LayerNorm, no centring), so that a change of W_out means the same in
the original model, and lie in memory the way matrix multiplication wants them: HookedTransformer would
otherwise copy transposed weights in every forward pass. Parameters are frozen; gradients are taken with respect
to activations only.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from interp.errors import InterpError, ModelError, OptionError, excerpt
from interp.models import embedded
from interp.models.config import checked_family, hooked_config
from interp.models.families import family_named
from interp.models.folder import check_vocabulary, check_weights, model_source
from interp.models.hub import check_reachable, unreadable
from interp.models.tokens import front_tokens
from interp.models.weights import as_matmul_wants, share_buffers

__all__ = ["checked_device", "default_device", "from_hugging_face", "load_hugging_face", "load_model"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


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
            or a Hugging Face name, of a supported family: GPT-2, GPT-J, GPT-NeoX/Pythia, Llama, Mistral, Qwen2 (one
            file each in ``interp/models/families``). Weights are read from safetensors files only, and no code that
            comes with a model is run.
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
    target = checked_device(device)
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
        raise ModelError(unreadable(str(name), label, True, error)) from error


def load_hugging_face(name: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """The Hugging Face model and tokenizer behind a name that :func:`load_model` takes, on the CPU.

    Weights are read from safetensors files only, and no code that comes with them is run.

    Raises:
        ModelError: If the name is unknown, cannot be reached, or the architecture is not supported, or if a folder
            is damaged, quantised, an adapter, or its files do not fit each other.
    """
    source = embedded.folder() if str(name) == embedded.NAME else model_source(name)
    is_folder = isinstance(source, Path)
    if isinstance(source, str):
        check_reachable(source)
    label = f"model {'folder ' if is_folder else ''}{excerpt(str(source), 240)}"
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            family = checked_family(config)
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
            check_weights(family, *loaded)
        except MemoryError:
            raise
        except ModelError as error:
            raise ModelError(f"{label}: {error}") from error
        except Exception as error:  # files of others make the libraries that read them raise anything
            raise ModelError(unreadable(str(source), label, is_folder, error)) from error
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
    family = family_named((hf_model.config.architectures or [type(hf_model).__name__])[0])
    cfg = HookedTransformerConfig(
        **hooked_config(family, hf_model.config),
        original_architecture=family.architecture,
        model_name=name,
        dtype=hf_model.dtype,
        device=str(device),
        init_weights=False,
        default_prepend_bos=len(front_tokens(tokenizer)) > 0,
    )
    hf_model = hf_model.to(device)  # type: ignore[arg-type]
    state = {
        key: as_matmul_wants(key, value.detach().to(device=device, dtype=hf_model.dtype))
        for key, value in family.convert(hf_model, cfg).items()
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
    share_buffers(model)
    model.requires_grad_(False)
    return model.eval()


def checked_device(device: str | torch.device | None) -> torch.device:
    """A device by name, :func:`default_device` without one.

    Raises:
        OptionError: If it does not exist or holds no weights.
    """
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


def _is_zero_bias(key: str) -> bool:
    return key.rsplit(".", 1)[-1].lstrip("_").startswith("b_")
