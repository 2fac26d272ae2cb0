"""Locators: each takes a model and a fact and returns scores on the same (token, layer) axes."""

from interp.corruption import noise_level
from interp.locate.attribution import Attribution, Neuron, attribute, refined_neurons
from interp.locate.causal_trace import CausalTrace, causal_trace
from interp.locate.class_average import ClassAverage, TokenLayerMap, class_average
from interp.locate.knowledge import Answer, answers, known_facts

__all__ = [
    "Answer",
    "Attribution",
    "CausalTrace",
    "ClassAverage",
    "Neuron",
    "TokenLayerMap",
    "answers",
    "attribute",
    "causal_trace",
    "class_average",
    "known_facts",
    "noise_level",
    "refined_neurons",
]
