"""The paper's study on any model: facts located, cases edited, what was found.

Names are loaded on first use: locating needs nothing of editing and evaluating.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
