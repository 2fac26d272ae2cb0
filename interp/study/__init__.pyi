from .again import Relocated, relocated
from .edited import EditResults, Strength, read_edit_results
from .editing import edit_cases
from .layers import peak_layers
from .left import editing_left, locating_left
from .located import Located, Selection, class_averages, each_located, located, selection
from .locating import locate_facts
from .paper import PAPER_LAYERS
from .settings import PRESETS, EditStudySettings, LocateSettings
from .shard import Shard
from .where import where_to_edit
from .where_found import WhereResults, read_where
from .where_settings import BUDGETS, Budget, WhereSettings

__all__ = [
    "BUDGETS",
    "PAPER_LAYERS",
    "PRESETS",
    "Budget",
    "EditResults",
    "EditStudySettings",
    "LocateSettings",
    "Located",
    "Relocated",
    "Selection",
    "Shard",
    "Strength",
    "WhereResults",
    "WhereSettings",
    "class_averages",
    "each_located",
    "edit_cases",
    "editing_left",
    "locate_facts",
    "located",
    "locating_left",
    "peak_layers",
    "read_edit_results",
    "read_where",
    "relocated",
    "selection",
    "where_to_edit",
]
