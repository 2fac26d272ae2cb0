from .edited import EditResults, Relocated, Strength, read_edit_results, relocated
from .editing import edit_cases
from .locating import LocateSettings, class_averages, locate_facts, located
from .plan import PAPER_LAYERS, PRESETS, EditStudySettings, LayerChoice, choose_layers

__all__ = [
    "PAPER_LAYERS",
    "PRESETS",
    "EditResults",
    "EditStudySettings",
    "LayerChoice",
    "LocateSettings",
    "Relocated",
    "Strength",
    "choose_layers",
    "class_averages",
    "edit_cases",
    "locate_facts",
    "located",
    "read_edit_results",
    "relocated",
]
