from .again import Relocated, relocated
from .edited import EditResults, Strength, read_edit_results
from .editing import edit_cases
from .layers import peak_layers
from .located import Located, class_averages, each_located, located
from .locating import locate_facts
from .paper import PAPER_LAYERS
from .settings import PRESETS, EditStudySettings, LocateSettings

__all__ = [
    "PAPER_LAYERS",
    "PRESETS",
    "EditResults",
    "EditStudySettings",
    "LocateSettings",
    "Located",
    "Relocated",
    "Strength",
    "class_averages",
    "each_located",
    "edit_cases",
    "locate_facts",
    "located",
    "peak_layers",
    "read_edit_results",
    "relocated",
]
