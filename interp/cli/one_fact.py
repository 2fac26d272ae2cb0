"""What the commands for one fact share: where the result is kept, and how it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli.common import check_writable, digest
from interp.cli.console import messages, print_json, screen

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.results.run_folder import RunFolder
    from interp.results.token_map import TokenMap

__all__ = ["show_map", "show_single", "single_run", "warn_of_letters"]


def single_run(
    kind: str, network: HookedTransformer, settings: dict[str, Any], out: Path | None
) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of a single result, found fit before the work; its settings are written with the result."""
    from dataclasses import asdict

    from interp.results.record import provenance
    from interp.results.run_folder import RunFolder

    settings = {"command": kind, **settings, "provenance": asdict(provenance(network))}
    run = RunFolder(out or Path("runs") / f"{kind}-{digest(settings)}")
    run.agrees(settings)
    check_writable(run.path)
    return run, settings


def show_single(
    shown: TokenMap,
    *,
    place: Path,
    summary: str,
    data: dict[str, Any],
    as_json: bool,
) -> None:
    """Draw a map into its run folder, and print it with what it rests on, or its data."""
    from interp import plots
    from interp.results.record import write_atomically

    plots.save_figure(plots.heatmap(shown), place / "heatmap")
    warn_of_letters(shown)
    write_atomically(place / "heatmap.html", plots.heatmap_html(shown).encode())
    if as_json:
        print_json(data)
        return
    screen.print(summary, soft_wrap=True)
    show_map(shown)
    messages.print(f"records and figures: {place}", soft_wrap=True)


def show_map(shown: TokenMap) -> None:
    """A map in letters, as wide as the window."""
    from interp import plots

    coloured = screen.color_system is not None and not screen.no_color
    screen.print(plots.heatmap_text(shown, columns=screen.width, coloured=coloured), end="")


def warn_of_letters(shown: TokenMap) -> None:
    """Say which letters no installed font has."""
    from interp.plots.style import letters_without_font

    if missing := letters_without_font("".join((shown.title, *shown.tokens))):
        messages.print(
            f"figures show {' '.join(missing[:8])} as codes, as no installed font has them: Noto Sans CJK has Chinese,"
            " Japanese and Korean",
            soft_wrap=True,
        )
