from .config import EditConfig, TargetConfig
from .contexts import write_contexts
from .corpora import Corpus
from .defaults import check_config, default_config
from .editor import edit, edit_each
from .measured import LayerScore, LocatorPeak, WhereToEdit
from .methods import EDITORS, editor_named
from .methods.alpha_edit import AlphaEditConfig
from .methods.emmet import EmmetConfig
from .methods.fine_tuning import FtConfig
from .methods.knowledge_neurons import KnConfig
from .methods.memit import MemitConfig
from .methods.pmet import PmetConfig
from .methods.rome import RomeConfig
from .moments import SecondMoments, second_moments
from .rows import check_requests
from .sequential import edit_sequentially
from .target_value import TargetValue, target_values

__all__ = [
    "EDITORS",
    "AlphaEditConfig",
    "Corpus",
    "EditConfig",
    "EmmetConfig",
    "FtConfig",
    "KnConfig",
    "LayerScore",
    "LocatorPeak",
    "MemitConfig",
    "PmetConfig",
    "RomeConfig",
    "SecondMoments",
    "TargetConfig",
    "TargetValue",
    "WhereToEdit",
    "check_config",
    "check_requests",
    "default_config",
    "edit",
    "edit_each",
    "edit_sequentially",
    "editor_named",
    "second_moments",
    "target_values",
    "write_contexts",
]
