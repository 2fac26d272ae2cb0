"""Models as HookedTransformer decoders: where they come from, what their folders must hold, their tokens."""

from interp.models.load import KNOWN_MODELS, load_model, weights_hash

__all__ = ["KNOWN_MODELS", "load_model", "weights_hash"]
