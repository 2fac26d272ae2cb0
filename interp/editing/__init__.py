"""Editors: what to add to W_out so that a model answers something else.

Names are loaded on first use: the table of editors is there without them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
