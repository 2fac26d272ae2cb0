"""Models as HookedTransformer decoders: where they come from, what their folders must hold, their tokens."""

from interp.models.hub import KNOWN_MODELS
from interp.models.load import load_model
from interp.models.weights import weights_hash

__all__ = ["KNOWN_MODELS", "load_model", "weights_hash"]
