"""Which test files belong to which module: its own first, then those of what is built on it."""

from __future__ import annotations

__all__ = ["PARTS"]

_TRACE = ("test_causal_trace", "test_activation_patching")
_FORMS = ("test_decoders", "test_number_formats")
_EDITORS = ("test_editing", "test_edits_that_take", "test_target_value")
_TURNS = ("test_edits_in_turn", "test_editing")
_MOMENTS = ("test_second_moments", "test_shrinkage", "test_moments_memory")

PARTS: dict[str, tuple[str, ...]] = {
    # engine
    "engine.base_runs": ("test_decoders", "test_sweep", "test_together", *_TRACE),
    "engine.batches": ("test_batches", "test_sweep", "test_together"),
    "engine.checksum": ("test_activation_patching",),
    "engine.forward": ("test_sweep", "test_number_formats", "test_suffix"),
    "engine.sweep": ("test_sweep", "test_together", "test_decoders", *_TRACE, "test_attribution"),
    "engine.suffix": ("test_suffix", "test_target_value", "test_generation", "test_editing"),
    "engine.restorations": ("test_together", *_FORMS, *_TRACE),
    "engine.integrated_gradients": ("test_attribution", "test_together", *_FORMS),
    "engine.corruption": ("test_together", *_TRACE),
    "engine.pairs": ("test_together", *_TRACE, *_FORMS),
    "engine.cells": _TRACE,
    "engine.generation": ("test_generation", "test_contexts", "test_protocol"),
    "models.config": ("test_families", "test_models"),
    "models.families.family": ("test_families", "test_models"),
    "models.families.settings": ("test_families", "test_models"),
    "models.weights": ("test_families", "test_models"),
    "models.tokens": ("test_tokens", "test_tokenizer_kinds", "test_facts", "test_datasets", "test_knowledge"),
    # locators
    "locate.activation_patching": ("test_activation_patching", "test_decoders"),
    "locate.methods.attribution": ("test_attribution", *_FORMS),
    "locate.methods.attribution_record": ("test_attribution", "test_display", *_FORMS),
    "locate.methods.causal_trace": (*_TRACE, *_FORMS, "test_batches"),
    "locate.methods.causal_trace_pool": ("test_together", *_TRACE, *_FORMS, "test_batches"),
    "locate.methods.causal_trace_record": ("test_causal_trace", "test_display", *_FORMS),
    "locate.refined": ("test_attribution", "test_editing"),
    "locate.class_average": ("test_class_average", "test_study"),
    "locate.knowledge": ("test_knowledge", "test_study"),
    # editors
    "editing.answers": _EDITORS,
    "editing.bare_rows": _EDITORS,
    "editing.config": ("test_edit_config", *_EDITORS),
    "editing.contexts": ("test_contexts", "test_editing"),
    "editing.corpora": (*_MOMENTS, "test_tokenizer_kinds"),
    "editing.editor": (*_EDITORS, *_TURNS),
    "patches.export": ("test_export",),
    "editing.methods.fine_tuning": ("test_edit_config", *_EDITORS),
    "editing.given_moments": (*_MOMENTS, *_EDITORS, *_TURNS),
    "editing.grams": _MOMENTS,
    "editing.methods.knowledge_neurons": ("test_edit_config", *_EDITORS),
    "editing.making": (*_EDITORS, *_TURNS),
    "editing.methods.memit": ("test_edit_config", *_EDITORS),
    "patches.on_model": ("test_patch", *_TURNS),
    "patches.patch": ("test_patch", "test_editing"),
    "patches.row_hooks": ("test_number_formats", "test_patch", "test_edits_that_take", "test_protocol"),
    "editing.methods.pmet": ("test_edit_config", *_EDITORS),
    "editing.defaults": ("test_edit_config",),
    "editing.published": ("test_edit_config",),
    "editing.methods.rome": ("test_edit_config", *_EDITORS),
    "editing.rows": ("test_target_value", "test_editing"),
    "editing.moments": _MOMENTS,
    "editing.moments_cache": _MOMENTS,
    "editing.sequential": _TURNS,
    "editing.shrinkage": _MOMENTS,
    "editing.spread": _EDITORS,
    "editing.target_value": ("test_target_value", "test_editing"),
    "editing.unedited": (*_TURNS, *_EDITORS),
    "editing.whitening": (*_EDITORS, *_MOMENTS),
    # statistics
    "statistics.intervals": ("test_statistics", "test_coverage", "test_class_average"),
    "evaluation.answers": ("test_protocol",),
    "evaluation.averaging": ("test_protocol", "test_seam_measure"),
    "evaluation.case_evaluation": ("test_protocol", "test_seam_measure"),
    "evaluation.measure": ("test_protocol", "test_seam_measure"),
    "evaluation.measures.__init__": ("test_protocol", "test_seam_measure"),
    "evaluation.measures.generality": ("test_protocol",),
    "evaluation.measures.locality": ("test_protocol",),
    "evaluation.measures.portability": ("test_protocol",),
    "evaluation.measures.reliability": ("test_protocol",),
    "evaluation.protocols": ("test_protocol",),
    "evaluation.asking": ("test_protocol",),
    "evaluation.metrics": ("test_metrics", "test_protocol"),
    "evaluation.protocol": ("test_protocol",),
    "evaluation.questions": ("test_protocol",),
    "statistics.significance": ("test_statistics", "test_coverage", "test_protocol"),
    "statistics.estimates": ("test_statistics", "test_coverage", "test_protocol"),
    "evaluation.summary": ("test_protocol", "test_seam_measure", "test_edit_study"),
    "study.again": ("test_edit_study",),
    "study.bundles": ("test_study", "test_shards"),
    "study.edited": ("test_edit_study",),
    "study.layers": ("test_edit_study",),
    "study.plan": ("test_edit_study",),
}
"""Module -> names of test files; more files whose names begin with one of these belong to the part, too."""
