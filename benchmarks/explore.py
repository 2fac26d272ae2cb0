"""How long a user of the explorer waits; run with ``python -m benchmarks.explore``.

1. A click on a cell, from the page's message to the restored run in the page's state: with nothing else running, and
   while maps are computed.
2. The first rows of each map after Locate.
3. With ``--browser``: a click in JupyterLab in headless Chromium, from the mouse to the number on the page.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.lab import browser, lab, open_notebook, run_all, write_notebook
from benchmarks.machine import console, heading, load, machine_name, matmul_rate
from interp.explorer import explore
from interp.models.load import default_device

CLICKS = 20
WAIT_S = 120


def cells(explorer: Any, n: int) -> list[dict[str, Any]]:
    """Cells of all three traced states, drawn with a fixed seed."""
    draw = random.Random(0)
    n_tokens, n_layers = len(explorer.fact_shown["tokens"]), explorer.setup["n_layers"]
    start = explorer.fact_shown["span"][0]
    methods = ("resid", "mlp", "attn")
    return [
        {"method": methods[i % 3], "token": draw.randrange(start, n_tokens), "layer": draw.randrange(n_layers)}
        for i in range(n)
    ]


def clicks(explorer: Any, n: int) -> list[float]:
    """Seconds from a click's message to the restored run on the page."""
    took = []
    for cell in cells(explorer, n):
        shown = threading.Event()

        def changed(change: Any, cell: dict[str, Any] = cell, shown: threading.Event = shown) -> None:
            now = [{key: each[key] for key in cell} for each in change["new"]["cells"]]
            if now == [cell]:
                shown.set()

        explorer.observe(changed, "runs")
        start = time.perf_counter()
        explorer._heard(explorer, {"do": "select", "cells": [cell]}, None)
        if not shown.wait(WAIT_S):
            raise TimeoutError(f"{cell} was not answered")
        took.append(time.perf_counter() - start)
        explorer.unobserve(changed, "runs")
    return took


def first_rows(explorer: Any) -> dict[str, float]:
    """Seconds from Locate to the first values of each map, each located by itself."""
    found = {}
    for method in explorer.setup["methods"]:
        arrived = threading.Event()

        def seen(change: Any, method: str = method, arrived: threading.Event = arrived) -> None:
            if method in change["new"]:
                arrived.set()

        explorer.observe(seen, "maps")
        start = time.perf_counter()
        explorer._heard(explorer, {"do": "run", "methods": [method]}, None)
        if not arrived.wait(WAIT_S):
            raise TimeoutError(f"nothing of {method} arrived")
        found[method] = time.perf_counter() - start
        explorer.unobserve(seen, "maps")
        explorer.stop()
        explorer._worker.wait(WAIT_S)
    return found


def in_browser(model: str) -> list[float]:
    """Seconds from the mouse to the number on the page, in JupyterLab."""
    took = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        show = f"import interp\nexplorer = interp.explore(interp.load_model({model!r}))\nexplorer"
        write_notebook(folder / "explore.ipynb", [show])
        with lab(folder) as address, browser() as context:
            page = open_notebook(context, address, "explore.ipynb")
            run_all(page)
            page.get_by_role("button", name="Locate", exact=True).click()
            page.locator(".ie-root:not(.ie-busy)").wait_for(timeout=600_000)
            page.locator('.ie-panel[data-method="attn"] rect[data-token="9"]').first.wait_for(timeout=600_000)
            page.locator(".ie-root:not(.ie-busy)").wait_for(timeout=600_000)
            draw = random.Random(0)
            for i in range(CLICKS):
                method, token, layer = ("resid", "mlp", "attn")[i % 3], draw.randrange(1, 10), draw.randrange(30)
                panel = page.locator(f'.ie-panel[data-method="{method}"]')
                panel.scroll_into_view_if_needed()
                start = time.perf_counter()
                panel.locator(f'rect[data-token="{token}"][data-layer="{layer}"]').click()
                panel.locator(".ie-mark-in").first.wait_for()
                page.wait_for_function(
                    "want => [...document.querySelectorAll('.ie-chips .ie-chip')].length == 1 &&"
                    " document.querySelector('.ie-chips').textContent.includes(want)",
                    arg=f"({token}),",
                )
                took.append(time.perf_counter() - start)
                page.locator(".ie-x").click()
                page.locator(".ie-chips .ie-chip").wait_for(state="detached")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--browser", action="store_true", help="also in JupyterLab in headless Chromium")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    device = default_device().type
    console.print(heading(device, options.model, matmul_rate(device)))
    explorer = explore(load(options.model, device))
    clicks(explorer, 2)  # warm up
    rows: dict[str, Any] = {"a click, nothing else running": clicks(explorer, CLICKS)}
    rows |= {f"first values of {name}": [value] for name, value in first_rows(explorer).items()}
    explorer.run(["attn", "mlp"])
    rows["a click while maps are computed"] = clicks(explorer, CLICKS)
    if not explorer.status["busy"]:
        raise RuntimeError("the maps ended before the clicks: these were not made while maps were computed")
    explorer.close()
    if options.browser:
        rows["a click in JupyterLab, mouse to number"] = in_browser(options.model)
    for name, took in rows.items():
        console.print(f"{name}: median {statistics.median(took):.2f} s, largest {max(took):.2f} s, n = {len(took)}")
    if options.out:
        options.out.write_text(json.dumps({"machine": machine_name(device), "seconds": rows}, indent=1))


if __name__ == "__main__":
    main()
