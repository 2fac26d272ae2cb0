"""Models: the embedded one, a Hugging Face name, a local folder or file, or one that is loaded, as a HookedTransformer.

The weights are *unprocessed* (no folded LayerNorm, no centring), so that a change of W_out means the same in
the original model, and lie in memory the way matrix multiplication wants them: HookedTransformer would
otherwise copy transposed weights in every forward pass. Parameters are frozen; gradients are taken with respect
to activations only.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from interp.errors import InterpError, ModelError, OptionError, excerpt
from interp.models import embedded
from interp.models.adapter import ADAPTER, adapter_base, adapter_settings, adapter_source, check_whole, merged
from interp.models.config import checked_family, hooked_config
from interp.models.families import FAMILIES, family_named
from interp.models.families.rope import rotary_tables
from interp.models.folder import check_vocabulary, check_weights, has_tokenizer, model_source
from interp.models.gguf_file import converted_gguf, gguf_source
from interp.models.given import checked_hooked, name_of, opened_object
from interp.models.hub import fetched, unreadable
from interp.models.quantised import check_dequantised, dequantised
from interp.models.source import Opened, keep_source
from interp.models.tokens import front_tokens
from interp.models.weights import as_matmul_wants, share_buffers, weights_hash

__all__ = ["checked_device", "default_device", "from_hugging_face", "load_hugging_face", "load_model"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def default_device() -> torch.device:
    """CUDA when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(
    name: str | Path | PreTrainedModel | HookedTransformer = embedded.NAME,
    *,
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    device: str | torch.device | None = None,
    tokenizer: Any = None,
    base: str | Path | None = None,
) -> HookedTransformer:
    """Load a model with unprocessed weights, frozen, in the layout that is fast.

    Example:
        >>> model = interp.load_model(folder)  # or "smollm2-135m", "gpt2-xl", "EleutherAI/pythia-1b", "model.gguf"
        >>> model.cfg.n_layers, model.cfg.d_model
        (6, 64)

    Args:
        name: ``"smollm2-135m"`` (embedded, no network), a folder in Hugging Face format (``~`` is the home folder), a
            GGUF file (dequantised, and kept converted in the user's cache), the folder of a PEFT adapter (merged into
            its base), or a Hugging Face name of any of these (of a GGUF file: ``owner/name/file.gguf``), of a
            supported family (one file each in ``interp/models/families``; the documentation has them in a table).
            Weights are read from safetensors and GGUF files only, and no code that comes with a model is run. Or a
            model that is loaded already: one of transformers, whose weights are copied, or a HookedTransformer, which
            is checked and returned itself.
        dtype: Number format of weights and activations; ``"auto"`` for that of the checkpoint (of a GGUF file
            float32, of an adapter its base's).
        device: Where to put it; CUDA when present by default.
        tokenizer: Of a model of transformers; all others come with their own.
        base: The base of an adapter, in place of the one that its settings name: whatever ``name`` may be, but an
            adapter or an object.

    Returns:
        A HookedTransformer in evaluation mode; ``cfg.model_name`` is ``name``, and
        ``cfg.default_prepend_bos`` says whether the model's own tokenizer puts a token (BOS) in front.

    Raises:
        ModelError: If the name is unknown (with the nearest known ones), cannot be reached, or the
            architecture or one of its settings is not supported; if a folder or a file is damaged, its weights are
            quantised and cannot be dequantised here, or its files do not fit each other; if an adapter cannot be
            merged.
        OptionError: If the device or the number format does not exist, or an option would do nothing.
    """
    if dtype != "auto" and dtype not in _DTYPES:
        known = ", ".join(map(str, _DTYPES))
        raise OptionError(f'dtype must be one of {known} or "auto", got {excerpt(dtype)}')
    target = checked_device(device)
    if isinstance(name, nn.Module):
        if base is not None:
            raise OptionError("base would do nothing: a model that is loaded already is no adapter")
        if isinstance(name, HookedTransformer):
            return checked_hooked(name, tokenizer, dtype, None if device is None else target)
        opened, called = opened_object(name, tokenizer), name_of(name)
    else:
        if tokenizer is not None:
            raise OptionError("tokenizer would do nothing: only a model of transformers comes without its own")
        opened, called = load_hugging_face(name, dtype, base=base), str(name)
    try:
        return from_hugging_face(
            opened.model,
            opened.tokenizer,
            name=called,
            device=target,
            dtype=opened.model.dtype if dtype == "auto" else dtype,
            source=opened.source,
            copy=isinstance(name, nn.Module),
        )
    except (InterpError, MemoryError):
        raise
    except Exception as error:  # settings of others that pass every check make the libraries raise anything
        label = f"model {excerpt(called, 240)}"
        raise ModelError(unreadable(called, label, True, error)) from error


def load_hugging_face(
    name: str | Path, dtype: torch.dtype | Literal["auto"], *, base: str | Path | None = None
) -> Opened:
    """The Hugging Face model and tokenizer behind a name that :func:`load_model` takes, on the CPU.

    Weights are read from safetensors and GGUF files only, and no code that comes with them is run.

    Raises:
        ModelError: See :func:`load_model`.
        OptionError: If there is a base and ``name`` is no adapter.
    """
    source = _source(name)
    if isinstance(source, Path) and (source / ADAPTER).is_file():
        return _with_adapter(source, base, dtype)
    if base is not None:
        raise OptionError(f"base would do nothing: {excerpt(str(name), 240)} is no adapter")
    described: dict[str, Any] = {}
    if isinstance(source, Path) and source.is_file():
        source = converted_gguf(source)
        described = gguf_source(source)
    return _opened(source, dtype, described)


def _source(name: str | Path) -> str | Path:
    return embedded.folder() if str(name) == embedded.NAME else fetched(model_source(name))


def _opened(source: str | Path, dtype: torch.dtype | Literal["auto"], described: dict[str, Any]) -> Opened:
    """Of a folder or a name that holds a whole model in Hugging Face format."""
    is_folder = isinstance(source, Path)
    label = f"model {'folder ' if is_folder else ''}{excerpt(str(source), 240)}"
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            was_quantised = dequantised(config)
            family = checked_family(config)
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            check_vocabulary(tokenizer, config)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                **({"config": config} if was_quantised else {}),
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # to name them
                output_loading_info=True,
            )
            check_weights(family, *loaded)
            if was_quantised:
                check_dequantised(loaded[0])
        except MemoryError:
            raise
        except ModelError as error:
            raise ModelError(f"{label}: {error}") from error
        except Exception as error:  # files of others make the libraries that read them raise anything
            raise ModelError(unreadable(str(source), label, is_folder, error)) from error
    if loaded[0].dtype not in _DTYPES:
        raise ModelError(
            f"{label}: its number format is {loaded[0].dtype}; expected one of {', '.join(map(str, _DTYPES))}"
        )
    return Opened(model=loaded[0], tokenizer=tokenizer, source=described or was_quantised)


def _with_adapter(folder: Path, base: str | Path | None, dtype: torch.dtype | Literal["auto"]) -> Opened:
    """An adapter, merged into its base; in the base's number format if none is asked for."""
    label = f"adapter {excerpt(str(folder), 240)}"
    try:
        settings = adapter_settings(folder)
        below = adapter_base(settings, base)
        check_whole(_source(below), below)
        opened = load_hugging_face(below, "auto")
        own = opened.model.dtype if dtype == "auto" else dtype
        wrapped = from_hugging_face(opened.model.float(), deepcopy(opened.tokenizer), name=str(below))
        described = {
            **adapter_source(folder, settings),
            "base": str(below) if isinstance(below, str) and not Path(below).exists() else Path(below).name,
            "base_weights": weights_hash(wrapped),
            "base_source": dict(opened.source),
            **({} if base is None else {"given_base": str(base)}),
        }
        del wrapped
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder) if has_tokenizer(folder) else opened.tokenizer
            check_vocabulary(tokenizer, opened.model.config)
            model = merged(opened.model, folder)
    except (MemoryError, OptionError):
        raise
    except ModelError as error:
        raise ModelError(f"{label}: {error}") from error
    except Exception as error:  # files of others make the libraries that read them raise anything
        raise ModelError(unreadable(str(folder), label, True, error)) from error
    whole: Any = model.to(dtype=own)  # type: ignore[call-arg]
    return Opened(model=whole, tokenizer=tokenizer, source=described)


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
    hf_model: PreTrainedModel,
    tokenizer: Any,
    *,
    name: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    source: Mapping[str, Any] | None = None,
    copy: bool = False,
) -> HookedTransformer:
    """Wrap a loaded Hugging Face model; the HookedTransformer's parameters share its storage where they can.

    Args:
        hf_model, tokenizer: Both; the tokenizer gets the tokens for padding and for a text's beginning that it lacks.
        name: What it will be called.
        device: Where to put it.
        dtype: Number format; that of the model if None.
        source: See :func:`interp.models.source.keep_source`.
        copy: Whether to leave the model where and as it is, and to share nothing with it.

    Raises:
        ModelError: If the architecture or one of its settings is not supported.
    """
    dtype = dtype or hf_model.dtype
    kind = type(hf_model).__name__
    family = family_named(kind if kind in FAMILIES else (hf_model.config.architectures or [kind])[0])
    cfg = HookedTransformerConfig(
        **hooked_config(family, hf_model.config),
        original_architecture=family.architecture,
        model_name=name,
        dtype=dtype,
        device=str(device),
        init_weights=False,
        default_prepend_bos=len(front_tokens(tokenizer)) > 0,
    )
    if not copy:
        hf_model = hf_model.to(device)  # type: ignore[arg-type]
    state = {
        key: as_matmul_wants(key, value.detach().to(device=device, dtype=dtype))
        for key, value in {**rotary_tables(hf_model.config, cfg), **family.convert(hf_model, cfg)}.items()
    }
    if copy:
        own = {weight.untyped_storage().data_ptr() for weight in hf_model.parameters()}
        state = {k: value.clone() if value.untyped_storage().data_ptr() in own else value for k, value in state.items()}
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
    keep_source(model, source or {})
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
