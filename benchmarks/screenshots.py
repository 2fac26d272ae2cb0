"""Screenshots of the explorer in JupyterLab, light and dark, at a laptop's width: ``python -m benchmarks.screenshots``.

They show the embedded model; each takes a minute or two.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.lab import browser, lab, open_notebook, run_all, write_notebook

HEIGHT = 1480  # all of it
SHOW = """
import interp

model = interp.load_model("smollm2-135m")
fact = interp.Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
explorer = interp.explore(model, fact)
explorer
""".strip()
SCALE = 1.5


def shot(folder: Path, path: Path, *, dark: bool) -> None:
    write_notebook(folder / "explore.ipynb", [SHOW])
    with lab(folder, dark=dark) as address, browser(height=HEIGHT, scale=SCALE) as context:
        page = open_notebook(context, address, "explore.ipynb")
        run_all(page)
        page.locator(".ie-root").wait_for()
        page.get_by_label("new target").fill("Rome")
        page.get_by_label("layer", exact=True).fill("4")
        page.get_by_role("button", name="Locate", exact=True).click()
        page.locator('.ie-panel[data-method="attn"] rect[data-token="9"]').first.wait_for(timeout=600_000)
        page.locator(".ie-root:not(.ie-busy)").wait_for(timeout=600_000)
        if dark:  # an edit, with its maps
            page.get_by_role("button", name="Edit", exact=True).click()
            page.locator(".ie-edit tbody tr").first.wait_for(timeout=600_000)
            page.get_by_role("button", name="Locate", exact=True).click()
            page.locator('.ie-panel[data-method="attn"] rect[data-token="9"]').first.wait_for(timeout=600_000)
            page.locator(".ie-root:not(.ie-busy)").wait_for(timeout=600_000)
        token = 3 if dark else 2  # where the fact is
        page.locator(f'.ie-panel[data-method="mlp"] rect[data-token="{token}"][data-layer="2"]').click()
        page.locator('.ie-run[data-run="Restored run"] [data-probability]').wait_for()
        page.locator('.ie-panel[data-method="attn"] rect[data-token="9"][data-layer="21"]').click(modifiers=["Shift"])
        page.locator(".ie-chips .ie-chip").nth(1).wait_for()
        page.locator(".ie-root").scroll_into_view_if_needed()
        page.mouse.move(5, HEIGHT - 5)
        page.evaluate("document.activeElement.blur()")
        page.locator(".ie-root").screenshot(path=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, default=Path("figures"))
    options = parser.parse_args()
    for dark in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            shot(Path(folder), options.figures / f"explorer-{'dark' if dark else 'light'}.png", dark=dark)


if __name__ == "__main__":
    main()
