"""The settings that an editor takes for a model, and settings that fit neither."""

from __future__ import annotations

from pathlib import Path

from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig
from interp.editing.measured import WhereToEdit, at_measured, measured_for
from interp.editing.methods import editor_named
from interp.editing.published import RULE
from interp.errors import OptionError
from interp.options import whole_number

__all__ = ["check_config", "default_config"]


def default_config(
    model: HookedTransformer, method: str, layer: int | None = None, *, where: str | Path | WhereToEdit | None = None
) -> EditConfig:
    """The published settings of a known model, or measured layers, or a rule's; the config's ``origin`` says which.

    Example:
        >>> config = interp.default_config(model, "rome")
        >>> config.layer, config.steps, config.origin
        (2, 20, 'rule')

    :mod:`interp.editing.published` has the models and the rule. What is optimised stays as published for GPT2-XL
    (PMET: GPT-J). Where only PMET was not published for a model, it takes the layers and the weight of MEMIT; where
    only FT-L was not, ROME's layer. Where there is but the rule, the layers are those that were measured to be best for
    these very weights (:func:`interp.where_to_edit`), if the package has a file of them.

    Args:
        model: The model.
        method: An editor's name.
        layer: Edit here instead (editors of several layers: the last of five). Knowledge neurons choose their layers.
        where: Edit where this says: the file of ``interp where``, or what :func:`interp.where_to_edit` returns.

    Raises:
        OptionError: If the method does not exist or takes no layer, or both a layer and ``where`` are given.
        DataError: If the file is missing or damaged.
        ModelError: If it was measured on other weights (names both hashes).
    """
    config = editor_named(method).default(model)
    if where is not None:
        if layer is not None:
            raise OptionError(f"where would do nothing: layer {layer!r} is given")
        return at_measured(model, method, config, where)
    if layer is None:
        if config.origin != RULE or not type(config).width:
            return config
        measured = measured_for(model)
        return config if measured is None else at_measured(model, method, config, measured, checked=True)
    layer = whole_number("layer", layer, least=0)
    return config.up_to(layer).from_(f"{config.origin}; layer given")


def check_config(model: HookedTransformer, method: str, config: EditConfig) -> None:
    """Refuse a config of another method, or with a layer that the model does not have.

    Raises:
        OptionError: Naming the layer and the model's number of layers.
    """
    wanted = editor_named(method).config
    if type(config) is not wanted:
        raise OptionError(f"{method} takes a {wanted.__name__}, got a {type(config).__name__}")
    for layer in config.edited_layers:
        if layer >= model.cfg.n_layers:
            raise OptionError(
                f"layer {layer} does not exist: {model.cfg.model_name} has layers 0 to {model.cfg.n_layers - 1}"
            )
