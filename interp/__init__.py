"""Where does a language model keep a fact, and where should one edit it?

What one types is named in ``__init__.pyi``; the rest is in the packages (``interp.editing.RomeConfig``). Both are
loaded on first use, so that ``import interp`` is instant.

The examples in docstrings take as given what these lines make; their numbers are of a model of 6 layers in the tests::

    model = interp.load_model("smollm2-135m")
    fact = interp.Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    request = interp.EditRequest(fact, new_target=" Rome")
"""

import sys
from typing import Any

import lazy_loader

_PACKAGES = {
    "editing": "FtConfig KnConfig MemitConfig PmetConfig RomeConfig SecondMoments TargetValue target_values",
    "engine": "RunPair generate",
    "errors": "DataError FactError ModelError NumericalError OptionError",
    "evaluation": (
        "Answers CaseEvaluation Comparison Interval TableRow ask bootstrap_mean fluency harmonic_mean paired_difference"
        " rank_correlation"
    ),
    "explorer": "Controls",
    "facts": "",
    "locate": ("Attribution Candidate CausalTrace ClassAverage Neuron PatchedRun Readout read_out refined_neurons"),
    "models": "KNOWN_MODELS TOKEN_CLASSES TokenizedFact token_classes weights_hash",
    "patches": "Outcome",
    "plots": (
        "figure1_csv figure1_html heatmap_html heatmap_text maps_csv maps_html table1_csv table1_latex table1_markdown"
    ),
    "report": "",
    "results": "Provenance Record load_record provenance",
    "study": "EditResults PAPER_LAYERS PRESETS Relocated Strength located relocated",
}
"""The packages, each with the names of it that once stood here."""

OLD_NAMES = {name: f"interp.{package}.{name}" for package, names in _PACKAGES.items() for name in names.split()} | {
    "Answer": "interp.locate.TopAnswer",
    "answers": "interp.locate.top_answers",
    "choose_layers": "interp.study.peak_layers",
    "compared": "interp.compare",
    "edit_layers": "interp.plots.scores_by_layer",
    "edit_layers_csv": "interp.plots.scores_by_layer_csv",
    "edit_results": "interp.read_edit_results",
}
"""Names that once stood here, each with the one that it has now."""

_load, __dir__, _found = lazy_loader.attach_stub(__name__, __file__)
__all__ = [name for name in _found if name not in _PACKAGES]


def __getattr__(name: str) -> Any:
    """What is asked for, loaded now; of an old name, an error that says the new one."""
    if name not in OLD_NAMES:
        return _load(name)
    hint = f"interp.{name} is now {OLD_NAMES[name]}"
    if sys._getframe(1).f_globals.get("__name__") == "importlib._bootstrap":
        # `from interp import ...`, which drops the text of an AttributeError
        raise ImportError(hint, name=__name__, path=__file__)
    raise AttributeError(hint)
