"""How fast editing is, against full passes; run with ``python -m benchmarks.edit``.

1. One ROME edit with 16 contexts at a middle layer, against a full forward and backward pass with all logits per step.
2. A batch of 8 facts against one by one.
3. Second moments of 5 layers in one pass, against one pass per layer (each stopped at its layer).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer

from benchmarks.baseline import rome_value, second_moment
from benchmarks.machine import console, flops, heading, load, machine_name, matmul_rate, median_seconds, seconds
from interp.editing import RomeConfig
from interp.editing.contexts import Contexts, write_contexts
from interp.editing.corpora import Corpus, corpus_rows
from interp.editing.grams import sums_by_layer
from interp.editing.rows import edit_rows
from interp.editing.target_value import target_values
from interp.facts.case_files import load_cases
from interp.facts.records import EditRequest, Fact
from interp.models.load import default_device

REQUEST = EditRequest(Fact(template="The {} is located in the city of", subject="Eiffel Tower"), new_target=" Rome")
CONTEXTS = ((5, 8), (10, 7))  # with the bare prompt, 16


def one_edit(model: HookedTransformer, contexts: Contexts, layer: int, device: str) -> dict[str, Any]:
    config = RomeConfig(layer=layer, stop_loss=0.0)  # every step is taken, by both
    rows = edit_rows(model, [REQUEST], contexts)
    prompts = [REQUEST.fact.within(c).prompt for kind in contexts for c in kind] + [f"{REQUEST.fact.subject} is a"]

    def ours() -> Any:
        return target_values(model, [REQUEST], contexts, layer=layer, sites=("mlp_out",), config=config)[0]

    def baseline() -> Any:
        return rome_value(model, prompts, list(rows.subject_last), rows.targets[0], layer=layer, config=config)

    short = replace(config, steps=2)
    target_values(model, [REQUEST], contexts, layer=layer, sites=("mlp_out",), config=short)  # warm up
    rome_value(model, prompts, list(rows.subject_last), rows.targets[0], layer=layer, config=short)
    ours_s, found = seconds(ours, device)
    base_s, (v0, delta, _) = seconds(baseline, device)
    expected = v0 + delta
    row = {
        "work": f"ROME's value at layer {layer}, 16 contexts, {config.steps} steps",
        "baseline_s": base_s,
        "ours_s": ours_s,
        "ratio": base_s / ours_s,
        "difference": float((found.value("mlp_out") - expected).norm() / expected.norm()),
        "matmul_share": flops(ours) / ours_s / matmul_rate(device),
    }
    console.print(row)
    return row


def batch_of_facts(model: HookedTransformer, contexts: Contexts, layer: int, device: str) -> dict[str, Any]:
    requests = [case.request for case in load_cases()[:8]]
    n_contexts = sum(len(kind) for kind in contexts)
    config = RomeConfig(layer=layer, stop_loss=0.0)

    def run(members: list[EditRequest]) -> Any:
        return target_values(model, members, contexts, layer=layer, sites=("mlp_out",), config=config)

    single_s, alone = seconds(lambda: [run([request])[0] for request in requests], device)
    batch_s, together = seconds(lambda: run(requests), device)
    values = [[t.value("mlp_out") for t in each] for each in (alone, together)]
    row = {
        "work": f"8 facts at layer {layer}, {n_contexts} contexts: one by one against one batch",
        "baseline_s": single_s,
        "ours_s": batch_s,
        "ratio": single_s / batch_s,
        "difference": max(float((a - b).norm() / a.norm()) for a, b in zip(*values, strict=True)),
        "matmul_share": flops(lambda: run(requests)) / batch_s / matmul_rate(device),
    }
    console.print(row)
    return row


def moments(model: HookedTransformer, layer: int, tokens: int, device: str) -> dict[str, Any]:
    layers = range(layer - 2, layer + 3)
    written = torch.cat(list(corpus_rows(model, Corpus(tokens=tokens))))

    def ours() -> Any:
        found = sums_by_layer(model, layers, [written])
        return {at: (sums.products.sum(0) / sums.counts.sum()).float() for at, sums in found}

    def baseline() -> Any:
        return {at: second_moment(model, written, at, batch=16) for at in layers}

    ours_s, found = median_seconds(ours, device)
    base_s, expected = median_seconds(baseline, device)
    row = {
        "work": f"second moments of 5 layers on {written.numel()} tokens",
        "baseline_s": base_s,
        "ours_s": ours_s,
        "ratio": base_s / ours_s,
        "difference": max(float((found[k] - v).norm() / v.norm()) for k, v in expected.items()),
        "matmul_share": flops(ours) / ours_s / matmul_rate(device),
    }
    console.print(row)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="a model's name, or gpt2-xl-shaped (random weights)")
    parser.add_argument("--tokens", type=int, default=8192, help="of the second moments")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    device = default_device().type
    model = load(options.model, device)
    rate = matmul_rate(device)
    console.print(heading(device, options.model, rate))
    middle = model.cfg.n_layers // 2
    contexts = write_contexts(model, kinds=CONTEXTS)
    rows = [
        one_edit(model, contexts, middle, device),
        batch_of_facts(model, contexts, middle, device),
        batch_of_facts(model, write_contexts(model), middle, device),
        moments(model, middle, options.tokens, device),
    ]
    if options.out:
        options.out.write_text(json.dumps({"machine": machine_name(device), "rate": rate, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
