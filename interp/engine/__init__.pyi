from .cells import Cell
from .corruption import noise_level
from .generation import generate
from .pairs import RunPair, clean_and_corrupted, prompt_pair

__all__ = ["Cell", "RunPair", "clean_and_corrupted", "generate", "noise_level", "prompt_pair"]
