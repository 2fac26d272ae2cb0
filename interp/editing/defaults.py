"""The settings that an editor takes for a model, and settings that fit neither."""

from __future__ import annotations

from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig
from interp.editing.methods import editor_named
from interp.errors import OptionError
from interp.options import whole_number

__all__ = ["check_config", "default_config"]


def default_config(model: HookedTransformer, method: str, layer: int | None = None) -> EditConfig:
    """The published settings of a known model, or a rule's for others; the config's ``origin`` says which.

    Example:
        >>> config = interp.default_config(model, "rome")
        >>> config.layer, config.steps, config.origin
        (2, 20, 'rule')

    :mod:`interp.editing.published` has the models and the rule. What is optimised stays as published for GPT2-XL
    (PMET: GPT-J). Where only PMET was not published for a model, it takes the layers and the weight of MEMIT; where
    only FT-L was not, ROME's layer.

    Args:
        model: The model.
        method: An editor's name.
        layer: Edit here instead (editors of several layers: the last of five). Knowledge neurons choose their layers.

    Raises:
        OptionError: If the method does not exist, or takes no layer.
    """
    config = editor_named(method).default(model)
    if layer is None:
        return config
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
