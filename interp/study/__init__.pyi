from .again import Relocated, relocated
from .edited import EditResults, Strength, read_edit_results
from .editing import edit_cases
from .layers import peak_layers
from .left import editing_left, locating_left
from .located import Located, Selection, class_averages, count_located, each_located, located, selection
from .locating import locate_facts
from .paper import PAPER_LAYERS
from .settings import PRESETS, EditStudySettings, LocateSettings
from .shard import Shard
from .stage import Stage

__all__ = [
    "PAPER_LAYERS",
    "PRESETS",
    "EditResults",
    "EditStudySettings",
    "LocateSettings",
    "Located",
    "Relocated",
    "Selection",
    "Shard",
    "Stage",
    "Strength",
    "class_averages",
    "count_located",
    "each_located",
    "edit_cases",
    "editing_left",
    "locate_facts",
    "located",
    "locating_left",
    "peak_layers",
    "read_edit_results",
    "relocated",
    "selection",
]
