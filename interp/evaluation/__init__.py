"""What an edit did to a model: measures of single answers and texts, and their means with intervals.

Names are loaded on first use: the table of measures is there without them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
