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
from .workers import Workers

__all__ = [
    "PAPER_LAYERS",
    "PRESETS",
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
    "relocated",
    "selection",
]
