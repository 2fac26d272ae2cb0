"""Patches: weight changes that go on and come off exactly, are saved, and are exported."""

from interp.patches.export import export_hugging_face, export_lora
from interp.patches.patch import Outcome, Patch, applied_patches, compose, overlap

__all__ = ["Outcome", "Patch", "applied_patches", "compose", "export_hugging_face", "export_lora", "overlap"]
