"""Everything that runs a model and is no method: base runs, sweeps, suffixes, corruption, restoration, generation."""

from interp.engine.generation import generate

__all__ = ["generate"]
