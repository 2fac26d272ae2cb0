"""Explore a model in Jupyter: see where it keeps a fact, put states in by a click, edit and take it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformer_lens import HookedTransformer

from interp.errors import InterpError
from interp.explorer.session import Controls, Session
from interp.facts.records import Fact

if TYPE_CHECKING:
    from interp.explorer.widget import Explorer

__all__ = ["Controls", "explore"]


def explore(model: HookedTransformer, fact: Fact | None = None, *, controls: Controls | None = None) -> Explorer:
    """A widget to explore a model with; show it as the last line of a Jupyter cell.

    Example:
        >>> explorer = interp.explore(model, fact)  # as the last line of a cell it shows itself
        >>> explorer.run(["attribution"])
        >>> explorer.wait()
        >>> explorer.located["attribution"].scores.shape  # [layer, token, neuron]
        torch.Size([6, 10, 256])
        >>> explorer.close()

    The model is never changed: the explorer works on a view that shares its weights, and edits layers of its own.

    Args:
        model: Any model of :func:`interp.load_model`.
        fact: What to start with; the Eiffel Tower if None.
        controls: What the sliders are set to.

    Raises:
        InterpError: If the notebook packages are not installed (says how to).
        FactError: If the fact does not fit the model.
    """
    try:
        from interp.explorer.widget import Explorer
    except ModuleNotFoundError as error:
        if error.name not in ("anywidget", "traitlets", "ipywidgets"):
            raise
        raise InterpError(
            f"the explorer needs the package {error.name}: pip install 'interp[notebooks]', or pip install anywidget"
        ) from error
    return Explorer(Session(model, fact, controls=controls))
