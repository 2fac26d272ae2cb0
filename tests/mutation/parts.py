"""Which test files belong to which module: its own first, then those of what is built on it."""

from __future__ import annotations

__all__ = ["PARTS"]

_TRACE = ("test_causal_trace", "test_activation_patching")
_EDITORS = ("test_editing", "test_target_value")

PARTS: dict[str, tuple[str, ...]] = {
    "base_runs": ("test_decoders", "test_sweep", *_TRACE),
    "batches": ("test_batches", "test_sweep"),
    "sweep": ("test_sweep", "test_decoders", *_TRACE, "test_attribution"),
    "restorations": ("test_decoders", "test_number_formats", *_TRACE),
    "suffix": ("test_suffix", "test_target_value", "test_generation", "test_editing"),
    "integrated_gradients": ("test_attribution", "test_decoders", "test_number_formats"),
    "corruption": _TRACE,
    "run_pairs": ("test_activation_patching", "test_causal_trace"),
    "cells": ("test_activation_patching", "test_causal_trace"),
    "generation": ("test_generation", "test_contexts", "test_protocol"),
    "tokens": ("test_tokens", "test_tokenizer_kinds", "test_facts", "test_datasets", "test_knowledge"),
    "locate.activation_patching": ("test_activation_patching", "test_decoders"),
    "locate.attribution": ("test_attribution", "test_decoders", "test_number_formats"),
    "locate.causal_trace": ("test_causal_trace", "test_decoders", "test_number_formats", "test_activation_patching"),
    "locate.class_average": ("test_class_average", "test_study"),
    "locate.knowledge": ("test_knowledge", "test_study"),
    "editing.config": ("test_edit_config", *_EDITORS),
    "editing.contexts": ("test_contexts", "test_editing"),
    "editing.corpora": ("test_second_moments",),
    "editing.editor": _EDITORS,
    "editing.export": ("test_export",),
    "editing.fine_tuning": ("test_editing",),
    "editing.knowledge_neurons": ("test_editing",),
    "editing.on_model": ("test_patch", "test_editing"),
    "editing.memit": _EDITORS,
    "editing.patch": ("test_patch", "test_editing"),
    "editing.pmet": _EDITORS,
    "editing.rome": _EDITORS,
    "editing.rows": ("test_target_value", "test_editing"),
    "editing.second_moments": ("test_second_moments",),
    "editing.spread": ("test_editing",),
    "editing.target_value": ("test_target_value", "test_editing"),
    "editing.whitening": ("test_editing", "test_second_moments"),
    "evaluation.asking": ("test_protocol",),
    "evaluation.metrics": ("test_metrics", "test_protocol"),
    "evaluation.protocol": ("test_protocol",),
    "evaluation.statistics": ("test_statistics", "test_protocol"),
    "evaluation.summary": ("test_protocol", "test_edit_study"),
    "edit_plan": ("test_edit_study",),
}
"""Module -> names of test files; more files whose names begin with one of these belong to the part, too."""
