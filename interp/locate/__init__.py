"""Locators: each takes a model and a fact and returns scores on the same (token, layer) axes.

Names are loaded on first use: the table of locators is there without them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
