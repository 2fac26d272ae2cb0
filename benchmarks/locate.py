"""How fast locating is, against one full forward pass per cell; run with ``python -m benchmarks.locate``.

Everything of one run is on the same model in the same memory layout, on the same threads, so that the ratios mean
something. The baseline is in ``benchmarks/baseline.py``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from transformer_lens import HookedTransformer

from benchmarks.baseline import attribute_layers, trace_cells
from benchmarks.machine import console, flops, heading, load, machine_name, matmul_rate, median_seconds, seconds
from interp.facts.records import Fact
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace
from interp.models.load import default_device
from interp.models.tokens import tokenize
from interp.results.record import provenance

FACT = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
NOISE = 0.3


def against_baseline(model: HookedTransformer, device: str, stride: int) -> list[dict[str, Any]]:
    described = provenance(model)
    tokenized = tokenize(model, FACT)
    answer = tokenized.target_ids[0]
    n_tokens, n_layers = len(tokenized.ids), model.cfg.n_layers
    everything = [(t, layer) for t in range(n_tokens) for layer in range(n_layers)]
    cells = everything[::stride]
    rows = []
    trace_cells(  # warm up
        model, tokenized.ids, tokenized.subject_span, answer, state="resid", window=10, samples=10, noise=NOISE, seed=1,
        cells=cells[:2],
    )  # fmt: skip
    for state in ("resid", "mlp", "attn"):

        def ours(state: Any = state) -> Any:
            return causal_trace(model, FACT, state=state, noise=NOISE, model_provenance=described)

        def baseline(state: Any = state) -> Any:
            return trace_cells(
                model,
                tokenized.ids,
                tokenized.subject_span,
                answer,
                state=state,
                window=10,
                samples=10,
                noise=NOISE,
                seed=1,
                cells=cells,
            )

        ours_s, trace = seconds(ours, device)
        base_s, scores = seconds(baseline, device)
        base_s *= len(everything) / len(cells)
        chosen = tuple(torch.tensor(cells).T)
        difference = float((trace.scores[chosen] - scores[chosen]).abs().max())
        before = matmul_rate(device)
        rows.append(
            {
                "work": f"causal trace, {state}, {n_tokens} x {n_layers} cells, 10 samples",
                "baseline_s": base_s,
                "ours_s": ours_s,
                "ratio": base_s / ours_s,
                "difference": difference,
                "matmul_share": flops(ours) / ours_s / before,
            }
        )
        report_row(rows[-1])
    last = slice(n_tokens - 1, None)
    attribute_layers(model, tokenized.ids, answer, steps=2, positions=last)  # warm up

    def ours_attribution() -> Any:
        return attribute(model, FACT, tokens="last", steps=20, model_provenance=described)

    ours_s, found = median_seconds(ours_attribution, device)
    base_s, expected = seconds(lambda: attribute_layers(model, tokenized.ids, answer, steps=20, positions=last), device)
    rows.append(
        {
            "work": "attribution, last token, n = 20, all layers",
            "baseline_s": base_s,
            "ours_s": ours_s,
            "ratio": base_s / ours_s,
            "difference": float((found.scores - expected[:, 0].cpu()).abs().max()),
            "matmul_share": flops(ours_attribution) / ours_s / matmul_rate(device),
        }
    )
    report_row(rows[-1])
    return rows


def report_row(row: dict[str, Any]) -> None:
    console.print(
        f"{row['work']}: baseline {row['baseline_s']:.1f} s, sweep {row['ours_s']:.2f} s, {row['ratio']:.1f}x;"
        f" difference {row['difference']:.1e}; {row['matmul_share']:.0%} of the matmul rate"
    )


def growth(model: HookedTransformer, name: str) -> list[dict[str, Any]]:
    """Time and peak memory by tokens, samples, layers and facts; each point in a fresh process for its peak."""
    rows = []
    # around one trace of 10 tokens, 30 layers, 10 samples
    for what, values in (("tokens", (6, 10, 20)), ("samples", (5, 20)), ("layers", (10, 20)), ("facts", (2,))):
        for value in values:
            output = subprocess.run(
                [sys.executable, "-m", "benchmarks.locate", "--point", what, str(value), "--model", name],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            rows.append({"what": what, "value": value, **json.loads(output.splitlines()[-1])})
            console.print(rows[-1])
    return rows


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def point(model: HookedTransformer, what: str, value: int) -> dict[str, float]:
    fact, samples, repeats = FACT, 10, 1
    if what == "samples":
        samples = value
    elif what == "layers":
        model.blocks = model.blocks[:value]
        model.cfg.n_layers = value
    elif what == "facts":
        repeats = value
    elif what == "tokens":
        words = " is located in the city of" + " that is" * value
        template = "{}"
        for word in words.split(" ")[1:]:
            if len(tokenize(model, Fact(template=template, subject="Eiffel Tower")).ids) >= value:
                break
            template += " " + word
        fact = Fact(template=template, subject="Eiffel Tower")
    described = provenance(model)
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here, not from loading
    before = peak_mib()
    start = time.perf_counter()
    for _ in range(repeats):
        causal_trace(model, fact, samples=samples, noise=NOISE, model_provenance=described)
    took = time.perf_counter() - start
    peak = peak_mib()
    return {
        "tokens": len(tokenize(model, fact).ids),
        "seconds": took,
        "peak_mib": peak,
        "above_weights_mib": peak - before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a model's name, or gpt2-xl-shaped (random weights)")
    parser.add_argument("--stride", type=int, default=1, help="time every STRIDE-th baseline cell only, and scale up")
    parser.add_argument("--no-growth", action="store_true")
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    device = default_device().type
    model = load(options.model, device)
    if options.point:
        print(json.dumps(point(model, options.point[0], int(options.point[1]))))
        return
    rate = matmul_rate(device)
    machine = machine_name(device)
    console.print(f"{heading(device, options.model, rate)}; baseline cells timed: 1 in {options.stride}")
    rows = against_baseline(model, device, options.stride)
    table = Table("work", "baseline s", "sweep s", "ratio", "largest difference", "share of matmul rate")
    for row in rows:
        table.add_row(
            row["work"], f"{row['baseline_s']:.1f}", f"{row['ours_s']:.2f}", f"{row['ratio']:.1f}x",
            f"{row['difference']:.1e}", f"{row['matmul_share']:.0%}",
        )  # fmt: skip
    console.print(table)
    grown = [] if options.no_growth or device == "cuda" else growth(model, options.model)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "rate": rate, "rows": rows, "growth": grown}, indent=1))


if __name__ == "__main__":
    main()
