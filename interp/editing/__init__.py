"""Editors: what to add to W_out so that a model answers something else."""

from interp.editing.config import (
    METHODS,
    EditConfig,
    FtConfig,
    KnConfig,
    MemitConfig,
    PmetConfig,
    RomeConfig,
    TargetConfig,
    check_config,
)
from interp.editing.contexts import write_contexts
from interp.editing.corpora import Corpus
from interp.editing.editor import edit, edit_each
from interp.editing.published import default_config
from interp.editing.rows import check_requests
from interp.editing.second_moments import SecondMoments, second_moments
from interp.editing.sequential import edit_sequentially
from interp.editing.target_value import TargetValue, target_values
from interp.patches.export import export_hugging_face, export_lora
from interp.patches.patch import Outcome, Patch, applied_patches, compose, overlap

__all__ = [
    "METHODS",
    "Corpus",
    "EditConfig",
    "FtConfig",
    "KnConfig",
    "MemitConfig",
    "Outcome",
    "Patch",
    "PmetConfig",
    "RomeConfig",
    "SecondMoments",
    "TargetConfig",
    "TargetValue",
    "applied_patches",
    "check_config",
    "check_requests",
    "compose",
    "default_config",
    "edit",
    "edit_each",
    "edit_sequentially",
    "export_hugging_face",
    "export_lora",
    "overlap",
    "second_moments",
    "target_values",
    "write_contexts",
]
