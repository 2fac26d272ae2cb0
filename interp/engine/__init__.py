"""Everything that runs a model and is no method: base runs, sweeps, suffixes, corruption, restoration, generation.

Names are loaded on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
