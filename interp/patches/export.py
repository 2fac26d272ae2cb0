"""A patch for other programs: as a LoRA adapter of PEFT, or as an edited model in Hugging Face format.

Both speak of the model by its name, and add to the same parameter: what W_out is here is there the down projection
of each layer's MLP.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers.utils import logging as transformers_logging

from interp.errors import DataError, ModelError, OptionError
from interp.models.families import FAMILIES, family_of
from interp.models.load import from_hugging_face, load_hugging_face
from interp.models.source import Opened, said_of, source_of
from interp.models.weights import processing, weights_hash
from interp.patches.patch import Patch, applied_patches, check_fits
from interp.system.files import reason, temporary_folder

__all__ = ["export_hugging_face", "export_lora"]


def export_lora(patch: Patch, model: HookedTransformer, folder: str | Path) -> Path:
    """Write the patch as a LoRA adapter, for ``peft.PeftModel.from_pretrained(hugging_face_model, folder)``.

    Example:
        >>> patch = interp.edit(model, [request], method="kn")
        >>> folder = interp.export_lora(patch, model, "adapter")
        >>> sorted(path.name for path in folder.iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']

    The adapter adds exactly the patch: its scaling is 1 in every layer. A dense layer gets full rank. The base
    model is named as here (``cfg.model_name``), which for the embedded model is no name on the hub.

    Args:
        patch: The patch; its factors may have another rank in each layer.
        model: The model it was made for; it is only compared with the patch.
        folder: Where to write; must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        ModelError: If the patch was made for other weights (those that other patches leave, too), or the model was
            processed or is of no supported family.
        OptionError: If the patch changes nothing.
        DataError: If the folder is not empty or cannot be written.
    """
    from peft import LoraConfig

    module, d_in_first = _checked(patch, model)
    factors = {module.format(layer): _factors(patch, layer) for layer in patch.layers}
    factors = {name: (left, right) for name, (left, right) in factors.items() if left.shape[1]}
    if not factors:
        raise OptionError("the patch changes nothing: there is no adapter to write")
    ranks = {name: left.shape[1] for name, (left, _) in factors.items()}
    # peft takes the keys for regular expressions and tries them on whole names and on their ends after a dot
    pattern = {name.replace(".", r"\."): rank for name, rank in ranks.items()} if len(set(ranks.values())) > 1 else {}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=model.cfg.model_name,
        inference_mode=True,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        rank_pattern=pattern,
        alpha_pattern=pattern,
        target_modules=list(ranks),
        fan_in_fan_out=d_in_first,
    )
    config.target_modules = list(ranks)  # as a list again: a set would be written in any order
    state: dict[str, Tensor] = {}
    for name, (left, right) in factors.items():
        state[f"base_model.model.{name}.lora_A.weight"] = left.T.contiguous()
        state[f"base_model.model.{name}.lora_B.weight"] = right.T.contiguous()
    with _new_folder(Path(folder)) as temporary:
        config.save_pretrained(str(temporary))
        save_file(state, temporary / "adapter_model.safetensors", metadata={"format": "pt"})
    return Path(folder)


def export_hugging_face(patch: Patch, model: HookedTransformer, folder: str | Path) -> Path:
    """Write the edited model and its tokenizer in Hugging Face format; :func:`interp.load_model` reads it too.

    Example:
        >>> patch = interp.edit(model, [request], method="kn")
        >>> edited = interp.load_model(interp.export_hugging_face(patch, model, "edited-model"))
        >>> interp.locate.top_answers(edited, [fact])[0].top_answer
        ' Rome'

    The model is loaded anew under its name; ``model`` itself, and patches on it, play no part in what is written.

    Args:
        patch: The patch.
        model: The model it was made for; it is only compared with the patch.
        folder: Where to write; must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        ModelError: If the patch was made for other weights (those that other patches leave, too), or the model was
            processed, is of no supported family, or has other weights (both hashes named) when loaded anew.
        DataError: If the folder is not empty or cannot be written.
    """
    module, d_in_first = _checked(patch, model)
    with _new_folder(Path(folder)) as temporary:
        name = model.cfg.model_name
        opened = _loaded_anew(model)
        hf_model, tokenizer = opened.model, opened.tokenizer
        found = weights_hash(from_hugging_face(hf_model, copy.deepcopy(tokenizer), name=name))
        if found != patch.provenance.weights_hash:
            raise ModelError(
                f"the patch was made for {patch.provenance.model} with weights {patch.provenance.weights_hash};"
                f" {name}, loaded anew, has weights {found}"
            )
        for layer in patch.layers:
            weight = hf_model.get_parameter(f"{module.format(layer)}.weight").data
            W_out = weight if d_in_first else weight.T
            W_out.copy_(W_out.float() + patch.delta(layer).to("cpu", torch.float32))
        tokenizer.init_kwargs.pop("local_files_only", None)  # how it was read, not what it is
        show_bar = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            hf_model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        finally:
            if show_bar:
                transformers_logging.enable_progress_bar()
    return Path(folder)


def _checked(patch: Patch, model: HookedTransformer) -> tuple[str, bool]:
    """If the patch can be exported, of the modules that hold W_out: their name with a gap for the layer, and whether
    they keep it as [d_in, d_out].
    """
    _check_unprocessed(model)
    current = weights_hash(model) if applied_patches(model) else None
    check_fits(patch, model, current)
    if current == patch.provenance.weights_hash:
        raise ModelError(
            f"the patch was made on top of other patches that are on {model.cfg.model_name}: compose it with them"
            " (interp.compose) and export that"
        )
    architecture = str(model.cfg.original_architecture)
    refusal = f"{model.cfg.model_name}: patches of architecture {architecture} cannot be exported"
    if architecture not in FAMILIES:
        raise ModelError(f"{refusal}; supported are {', '.join(FAMILIES)}")
    family = family_of(model)
    if family.down_projection is None:
        raise ModelError(f"{refusal}: no single module holds its W_out")
    return f"{family.block}.{family.down_projection}", family.d_in_first


def _loaded_anew(model: HookedTransformer) -> Opened:
    """The model in Hugging Face format, from where it came from.

    Raises:
        ModelError: If it cannot be loaded by its name; of one that was given as an object, with what to do.
    """
    source, name = source_of(model), model.cfg.model_name
    try:
        return load_hugging_face(name, next(model.parameters()).dtype, base=source.get("given_base"))
    except ModelError as error:
        if source.get("kind") not in ("transformers", "HookedTransformer"):
            raise
        raise ModelError(
            f"{name}, {said_of(source)}, cannot be loaded anew: save it with its tokenizer (save_pretrained) and load"
            f" that folder, or export the patch as LoRA ({error})"
        ) from error


def _factors(patch: Patch, layer: int) -> tuple[Float[Tensor, "d_mlp rank"], Float[Tensor, "rank d_model"]]:
    """Two matrices whose product is exactly what the patch adds; no rank above that of a full matrix."""
    if layer not in patch.dense:
        left, right = patch.left[layer].cpu().float(), patch.right[layer].cpu().float()
        if left.shape[1] <= min(left.shape[0], right.shape[1]):
            return left, right
    delta = patch.delta(layer).cpu().float()
    d_mlp, d_model = delta.shape
    return (delta, torch.eye(d_model)) if d_model <= d_mlp else (torch.eye(d_mlp), delta)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its name when all has been written, and else is removed."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} exists and is not an empty folder: nothing was written")
        with temporary_folder(folder) as temporary:
            yield temporary
            for file in temporary.iterdir():
                file.chmod(0o644)  # what mkdtemp and safetensors write is private; this is to be shared
            temporary.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder} cannot be written: {reason(error)}") from error


def _check_unprocessed(model: HookedTransformer) -> None:
    """Refuse to give a patch away of a model whose weights were folded or centred: it would mean nothing elsewhere.

    Raises:
        ModelError: If it was processed.
    """
    if done := processing(model):
        raise ModelError(
            f"{model.cfg.model_name} was processed ({', '.join(done)}): its W_out is not that of the published model;"
            " load it with interp.load_model and edit that"
        )
