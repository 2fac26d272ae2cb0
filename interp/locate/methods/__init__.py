"""The locators, a file each, and the table of them: a new one is a file that ends in a ``LOCATOR``, and a line here.

The table holds where each of these stands, not what it is: names are there before any of them, and torch, is loaded.
A locator of one's own, from anywhere, may be put into the table as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.system.tables import entry_named

if TYPE_CHECKING:
    from interp.locate.method import Locator

__all__ = ["LOCATORS", "locator_named"]

LOCATORS: dict[str, str | Locator] = {
    "attribution": "attribution.LOCATOR",
    "resid": "causal_trace.RESID",
    "mlp": "causal_trace.MLP",
    "attn": "causal_trace.ATTN",
}
"""In the order of the study."""


def locator_named(name: str) -> Locator:
    """The locator of a name.

    Raises:
        OptionError: If there is none, with the name that was perhaps meant.
    """
    found: Locator = entry_named(name, LOCATORS, __name__)
    return found
