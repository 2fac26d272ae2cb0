from .datasets import load_facts
from .errors import DataError, FactError, InterpError, ModelError, NumericalError, OptionError
from .facts import Fact
from .locate import (
    Answer,
    Attribution,
    CausalTrace,
    ClassAverage,
    Neuron,
    answers,
    attribute,
    causal_trace,
    known_facts,
    noise_level,
    refined_neurons,
)
from .models import KNOWN_MODELS, load_model, weights_hash
from .plots import figure1, figure1_csv, figure1_html, heatmap, heatmap_html, heatmap_text, save_figure
from .results import Provenance, Record, load_record, provenance
from .runs import RunFolder
from .study import LocateSettings, class_averages, locate_facts, located
from .tokens import TOKEN_CLASSES, TokenizedFact, token_classes, tokenize

__all__ = [
    "KNOWN_MODELS",
    "TOKEN_CLASSES",
    "Answer",
    "Attribution",
    "CausalTrace",
    "ClassAverage",
    "DataError",
    "Fact",
    "FactError",
    "InterpError",
    "LocateSettings",
    "ModelError",
    "Neuron",
    "NumericalError",
    "OptionError",
    "Provenance",
    "Record",
    "RunFolder",
    "TokenizedFact",
    "answers",
    "attribute",
    "causal_trace",
    "class_averages",
    "figure1",
    "figure1_csv",
    "figure1_html",
    "heatmap",
    "heatmap_html",
    "heatmap_text",
    "known_facts",
    "load_facts",
    "load_model",
    "load_record",
    "locate_facts",
    "located",
    "noise_level",
    "provenance",
    "refined_neurons",
    "save_figure",
    "token_classes",
    "tokenize",
    "weights_hash",
]
