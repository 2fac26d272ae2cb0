"""Models as HookedTransformer decoders: where they come from, what their folders must hold, their tokens."""

from interp.models.hub import KNOWN_MODELS
from interp.models.load import load_model
from interp.models.precision import current_precision, matmul_precision
from interp.models.tokens import TOKEN_CLASSES, TokenizedFact, token_classes, tokenize
from interp.models.weights import weights_hash

__all__ = [
    "KNOWN_MODELS",
    "TOKEN_CLASSES",
    "TokenizedFact",
    "current_precision",
    "load_model",
    "matmul_precision",
    "token_classes",
    "tokenize",
    "weights_hash",
]
