from . import editing as editing
from . import engine as engine
from . import errors as errors
from . import evaluation as evaluation
from . import explorer as explorer
from . import facts as facts
from . import locate as locate
from . import models as models
from . import patches as patches
from . import plots as plots
from . import report as report
from . import results as results
from . import study as study
from .editing import (
    Corpus,
    default_config,
    edit,
    edit_each,
    edit_sequentially,
    second_moments,
    write_contexts,
)
from .engine import Cell, clean_and_corrupted, noise_level, prompt_pair
from .errors import InterpError, InterpWarning
from .evaluation import compare, evaluate, evaluate_each, table_row
from .explorer import explore
from .facts import EditCase, EditRequest, Fact, Probe, case_around, load_cases, load_facts
from .locate import attribute, causal_trace, known_facts, patch_activations
from .models import load_model, tokenize
from .patches import Patch, applied_patches, compose, export_hugging_face, export_lora, overlap
from .plots import before_after, figure1, heatmap, maps, save_figure
from .results import RunFolder, TokenMap
from .study import (
    EditStudySettings,
    LocateSettings,
    class_averages,
    edit_cases,
    locate_facts,
    read_edit_results,
    where_to_edit,
)

__all__ = [
    "Cell",
    "Corpus",
    "EditCase",
    "EditRequest",
    "EditStudySettings",
    "Fact",
    "InterpError",
    "InterpWarning",
    "LocateSettings",
    "Patch",
    "Probe",
    "RunFolder",
    "TokenMap",
    "applied_patches",
    "attribute",
    "before_after",
    "case_around",
    "causal_trace",
    "class_averages",
    "clean_and_corrupted",
    "compare",
    "compose",
    "default_config",
    "edit",
    "edit_cases",
    "edit_each",
    "edit_sequentially",
    "evaluate",
    "evaluate_each",
    "explore",
    "export_hugging_face",
    "export_lora",
    "figure1",
    "heatmap",
    "known_facts",
    "load_cases",
    "load_facts",
    "load_model",
    "locate_facts",
    "maps",
    "noise_level",
    "overlap",
    "patch_activations",
    "prompt_pair",
    "read_edit_results",
    "save_figure",
    "second_moments",
    "table_row",
    "tokenize",
    "where_to_edit",
    "write_contexts",
]
