"""Figures on disk: the same bytes for the same figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from interp.options import check_choice, check_positive
from interp.plots.style import paper_style
from interp.results.record import write_atomically

__all__ = ["save_figure"]

METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


def save_figure(
    figure: Figure, stem: str | Path, formats: Sequence[str] = ("pdf", "svg", "png"), dpi: int = 300
) -> list[Path]:
    """Write a figure as ``stem.pdf``, ``stem.svg`` and ``stem.png``, each at once or not at all.

    Example:
        >>> figure = interp.heatmap(interp.attribute(model, fact, tokens="all").map())
        >>> [path.name for path in interp.save_figure(figure, "eiffel")]
        ['eiffel.pdf', 'eiffel.svg', 'eiffel.png']

    PDF files embed their fonts as TrueType, SVG files keep text as text; no file holds a date.

    Args:
        figure: What to write.
        stem: Path without the ending.
        formats: Of ``pdf``, ``svg`` and ``png``.
        dpi: Dots per inch of PNG files.

    Returns:
        The files, in the order of ``formats``.

    Raises:
        OptionError: If a format is unknown; nothing is written then.
        DataError: If the place cannot be written.
    """
    for name in formats:
        check_choice("format", name, tuple(METADATA))
    check_positive(dpi=dpi)
    paths = []
    for name in formats:
        buffer = io.BytesIO()
        with paper_style():
            figure.savefig(buffer, format=name, dpi=dpi, metadata=METADATA[name])
        path = Path(stem)
        path = path.with_name(f"{path.name}.{name}")  # with_suffix would cut a stem such as "smollm2-1.7b"
        write_atomically(path, buffer.getvalue())
        paths.append(path)
    return paths
