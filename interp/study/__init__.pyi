from .again import Relocated, relocated
from .edited import EditResults, Strength, read_edit_results
from .editing import edit_cases
from .layers import peak_layers
from .left import editing_left, locating_left
from .located import Located, Selection, class_averages, count_located, each_located, located, selection
from .locating import locate_facts
from .on_ray.start import ray_workers
from .paper import PAPER_LAYERS
from .precision import PrecisionDistance, precision_distances, precision_line
from .settings import PRESETS, EditStudySettings, LocateSettings
from .shard import Shard
from .stage import Stage
from .where import where_to_edit
from .where_found import WhereResults, read_where
from .where_settings import BUDGETS, Budget, WhereSettings
from .workers import Workers

__all__ = [
    "BUDGETS",
    "PAPER_LAYERS",
    "PRESETS",
    "Budget",
    "EditResults",
    "EditStudySettings",
    "LocateSettings",
    "Located",
    "PrecisionDistance",
    "Relocated",
    "Selection",
    "Shard",
    "Stage",
    "Strength",
    "WhereResults",
    "WhereSettings",
    "Workers",
    "class_averages",
    "count_located",
    "each_located",
    "edit_cases",
    "editing_left",
    "locate_facts",
    "located",
    "locating_left",
    "peak_layers",
    "precision_distances",
    "precision_line",
    "ray_workers",
    "read_edit_results",
    "read_where",
    "relocated",
    "selection",
    "where_to_edit",
]
