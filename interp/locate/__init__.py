"""Locators: each takes a model and a fact and returns scores on the same (token, layer) axes."""

from interp.engine.cells import Cell
from interp.engine.corruption import noise_level
from interp.engine.pairs import RunPair, clean_and_corrupted, prompt_pair
from interp.locate.activation_patching import Candidate, PatchedRun, Readout, patch_activations, read_out
from interp.locate.class_average import ClassAverage, class_average
from interp.locate.knowledge import Answer, answers, known_facts
from interp.locate.methods.attribution import Attribution, Neuron, attribute
from interp.locate.methods.causal_trace import CausalTrace, causal_trace
from interp.locate.refined import refined_neurons

__all__ = [
    "Answer",
    "Attribution",
    "Candidate",
    "CausalTrace",
    "Cell",
    "ClassAverage",
    "Neuron",
    "PatchedRun",
    "Readout",
    "RunPair",
    "answers",
    "attribute",
    "causal_trace",
    "class_average",
    "clean_and_corrupted",
    "known_facts",
    "noise_level",
    "patch_activations",
    "prompt_pair",
    "read_out",
    "refined_neurons",
]
