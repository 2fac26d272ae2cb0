"""Models as HookedTransformer decoders: where they come from, what their folders must hold, their tokens."""

from interp.models.load import KNOWN_MODELS, load_model, weights_hash
from interp.models.tokens import TOKEN_CLASSES, TokenizedFact, token_classes, tokenize

__all__ = [
    "KNOWN_MODELS",
    "TOKEN_CLASSES",
    "TokenizedFact",
    "load_model",
    "token_classes",
    "tokenize",
    "weights_hash",
]
