"""Adapters of PEFT: merged into the weights of their base in float32, and the two compared before they are believed.

Only what is a change of weights can be merged. Prompts and prefixes that are learnt are tokens of their own, which no
weight holds. Whether a merge is what the adapter does is not left to the name of its kind: the base with the adapter
beside it and the merged model must give the same logits.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from interp.errors import ModelError, excerpt

__all__ = ["ADAPTER", "adapter_base", "adapter_settings", "adapter_source", "check_whole", "merged"]

ADAPTER = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MERGED = ("LORA", "ADALORA", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA", "IA3", "LN_TUNING")
"""Kinds that are changes of weights."""
NOT_ALWAYS = ("layer_replication", "alora_invocation_tokens", "megatron_config", "arrow_config")
"""Settings with which they are none."""
TOLERANCE = 1e-3
"""The largest accepted difference of merged and unmerged logits, against the largest logit."""


def adapter_settings(folder: Path) -> dict[str, Any]:
    """The settings of an adapter, if it can be merged.

    Raises:
        ModelError: If they cannot be read, its weights are pickled or missing, or naming a kind or a setting that is
            no change of weights.
    """
    try:
        settings = json.loads((folder / ADAPTER).read_text("utf-8"))
        kind = settings["peft_type"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ModelError(f"{ADAPTER} cannot be read: {excerpt(str(error), 200)[1:-1]}") from error
    if kind not in MERGED:
        raise ModelError(
            f"an adapter of kind {excerpt(kind)} is no change of weights and cannot be merged; those of"
            f" {', '.join(MERGED)} can"
        )
    for name in NOT_ALWAYS:
        if settings.get(name):
            raise ModelError(f"its setting {name} is {excerpt(settings[name])}: it is no change of weights")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"it has no {WEIGHTS} (pickled weights run code when they are read, and are not)")
    return dict(settings)


def adapter_base(settings: Mapping[str, Any], base: str | Path | None = None) -> str | Path:
    """The base of an adapter: the one that is given, or the one that its settings name.

    Raises:
        ModelError: If neither is, or the settings mean one revision of it.
    """
    if base is not None:
        return base
    below, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not below:
        raise ModelError("its settings name no base: say which (base=)")
    if revision not in (None, "main"):
        raise ModelError(
            f"its base is the revision {excerpt(revision)} of {excerpt(below)}: load it and name it (base=)"
        )
    return str(below)


def check_whole(source: str | Path, name: str | Path) -> str | Path:
    """The place of an adapter's base, if that is no adapter itself.

    Raises:
        ModelError: Naming it.
    """
    if isinstance(source, Path) and (source / ADAPTER).is_file():
        raise ModelError(f"its base {excerpt(str(name), 240)} is an adapter itself: merge that first")
    return source


def merged(base: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base, in float32, with an adapter merged into its weights; the base itself is used up.

    Raises:
        ModelError: If the adapter is not one of this base (names what does not fit), or the merged model does not do
            what the base with the adapter does.
    """
    from peft import PeftModel, get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft warns of is checked below
        beside: Any = PeftModel.from_pretrained(base, str(folder), torch_device="cpu").eval()
        needed, taken = (set(get_peft_model_state_dict(beside, save_embedding_layers=whole)) for whole in (False, True))
    with safe_open(str(folder / WEIGHTS), framework="pt") as file:
        given = set(file.keys())
    if not needed <= given <= taken:  # embeddings may be in it as well
        wrong = sorted(given - taken) or sorted(needed - given)
        raise ModelError(
            f"it is no adapter of this base: {wrong[0]} is {'in its file' if given - taken else 'missing'}"
            f" ({len(wrong)} such weights)"
        )
    ids = torch.arange(1, 9)[None] % base.config.vocab_size
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        expected = beside(input_ids=ids).logits
        model: PreTrainedModel = beside.merge_and_unload(safe_merge=True)
        found = model(input_ids=ids).logits
    gap = float((found - expected).abs().max() / expected.abs().max())
    if not gap <= TOLERANCE:  # NaN too
        raise ModelError(
            f"the adapter cannot be merged: the merged model's logits differ by {gap:.1%} from those of the base with"
            " the adapter beside it (a weight that is used twice, as embedding and unembedding, may be changed once)"
        )
    return model


def adapter_source(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What provenance says of an adapter: its folder's name, its kind, the hash of its weights."""
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return {"kind": "adapter", "adapter": folder.name, "peft_type": settings["peft_type"], "sha256": digest}
