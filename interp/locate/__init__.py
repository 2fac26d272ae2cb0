"""Locators: each takes a model and a fact and returns scores on the same (token, layer) axes."""

from interp.engine.cells import Cell
from interp.engine.corruption import noise_level
from interp.engine.pairs import RunPair, clean_and_corrupted, prompt_pair
from interp.locate.activation_patching import Candidate, PatchedRun, Readout, patch_activations, read_out
from interp.locate.class_average import ClassAverage, class_average
from interp.locate.knowledge import TopAnswer, known_facts, top_answers
from interp.locate.methods.attribution import Attribution, Neuron, attribute, refined_neurons
from interp.locate.methods.causal_trace import CausalTrace, causal_trace

__all__ = [
    "Attribution",
    "Candidate",
    "CausalTrace",
    "Cell",
    "ClassAverage",
    "Neuron",
    "PatchedRun",
    "Readout",
    "RunPair",
    "TopAnswer",
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
    "top_answers",
]
