from .activation_patching import Candidate, PatchedRun, Readout, patch_activations, read_out
from .class_average import ClassAverage, class_average
from .knowledge import TopAnswer, known_facts, top_answers
from .methods import LOCATORS, locator_named
from .methods.attribution import Attribution, AttributionSums, Neuron, attribute
from .methods.causal_trace import CausalTrace, causal_trace
from .refined import refined_neurons

__all__ = [
    "LOCATORS",
    "Attribution",
    "AttributionSums",
    "Candidate",
    "CausalTrace",
    "ClassAverage",
    "Neuron",
    "PatchedRun",
    "Readout",
    "TopAnswer",
    "attribute",
    "causal_trace",
    "class_average",
    "known_facts",
    "locator_named",
    "patch_activations",
    "read_out",
    "refined_neurons",
    "top_answers",
]
