"""Where does a language model keep a fact, and where should one edit it?

Everything public is named in ``__init__.pyi`` and loaded on first use, so that ``import interp`` is instant.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
