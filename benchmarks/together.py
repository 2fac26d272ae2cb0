"""How much sooner facts are located together than one by one; run with ``python -m benchmarks.together``.

Both in one run, on the same model in the same memory layout; and what share of the machine's own matmul rate each
reaches. On a card, 64 facts, and the shape of GPT2-XL with random weights:

    python -m benchmarks.together --device cuda --facts 64
    python -m benchmarks.together --device cuda --facts 64 --model gpt2-xl-shaped --precision tf32 --no-alone
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens import HookedTransformer

from benchmarks.machine import console, heading, load, machine_name, matmul_rate, seconds
from interp.engine.corruption import noise_level
from interp.facts.fact_files import load_facts
from interp.facts.records import Fact
from interp.locate.knowledge import known_facts, spread_over_relations
from interp.locate.method import LocateTask, locate_each
from interp.locate.methods import LOCATORS, locator_named
from interp.models.load import default_device
from interp.results.record import provenance

PRECISIONS = {
    "float32": (torch.float32, "highest"),
    "tf32": (torch.float32, "high"),
    "bfloat16": (torch.bfloat16, "highest"),
}
PUBLISHED = 1_209
"""Facts that the published study traces, under three states."""


@dataclass
class Counted:
    """Multiplications and additions of matrix products with weights, without those of a backward pass."""

    forward: float = 0.0


@contextmanager
def counting(model: HookedTransformer) -> Iterator[Counted]:
    """Count while something runs."""
    counted = Counted()

    def watched(module: Any) -> Any:
        each = 2 * sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)

        def count(_: Any, args: Any, kwargs: Any) -> None:
            x = next(iter((*args, *kwargs.values())))
            counted.forward += each * x.shape[0] * x.shape[1]

        return module.register_forward_pre_hook(count, with_kwargs=True)

    parts = [part for block in model.blocks for part in (block.attn, getattr(block, "mlp", None)) if part is not None]
    hooks = [watched(module) for module in (*parts, model.unembed)]
    try:
        yield counted
    finally:
        for hook in hooks:
            hook.remove()


def tasks(model: HookedTransformer, facts: Sequence[Fact], names: Sequence[str], samples: int) -> list[Any]:
    level, described = noise_level(model, facts), provenance(model)
    return [
        (
            locator_named(name),
            LocateTask(model=model, fact=fact, noise=level, samples=samples, model_provenance=described),
        )
        for fact in facts
        for name in names
    ]


def locate(asked: Sequence[Any], n_facts: int, together: int) -> list[Any]:
    """The maps of all tasks; so many facts at once."""
    found: dict[int, Any] = {}
    each = len(asked) // n_facts
    for first in range(0, len(asked), each * together):
        part = asked[first : first + each * together]
        for run_many in dict.fromkeys(locator.run_many for locator, _ in part):
            places = [place for place, (locator, _) in enumerate(part) if locator.run_many == run_many]

            def arrived(place: int, record: Any, *, first: int = first, places: list[int] = places) -> None:
                found[first + places[place]] = record.map().values

            locate_each([part[place] for place in places], lambda *_: None, arrived)
    return [found[place] for place in range(len(asked))]


def alone(asked: Sequence[Any]) -> list[Any]:
    return [locator.run(task).map().values for locator, task in asked]


def compare(model: HookedTransformer, options: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    dtype = PRECISIONS[options.precision][0]
    candidates = spread_over_relations(load_facts("builtin"), 0)
    known = options.model != "gpt2-xl-shaped"
    facts = [answer.fact for answer in known_facts(model, candidates, limit=options.facts)] if known else candidates
    facts = facts[: options.facts]
    together = options.together or len(facts)
    rows = []
    groups = [[name for name in options.locators if name != "attribution"], ["attribution"]]
    for names in groups:
        if not set(names) & set(options.locators):
            continue
        asked = tasks(model, facts, names, options.samples)
        locate(tasks(model, facts[:1], names, 1), 1, 1)  # warm up
        passes = 2 if names == ["attribution"] else 1  # backwards, to the inputs alone, costs as much again
        row: dict[str, Any] = {"work": f"{', '.join(names)} of {len(facts)} facts", "units": len(asked)}
        ways = [("together", lambda asked=asked: locate(asked, len(facts), together))]
        if options.alone:
            ways.append(("alone", lambda asked=asked: alone(asked)))
        maps = []
        for way, work in ways:
            rate = matmul_rate(device, dtype=dtype)
            with counting(model) as counted:
                took, found = seconds(work, device)
            maps.append(found)
            row |= {f"{way}_s": took, f"{way}_share": passes * counted.forward / took / rate}
        if options.alone:
            row["difference"] = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*maps, strict=True))
        rows.append(row)
        report(row)
    return rows


def report(row: dict[str, Any]) -> None:
    each = row["together_s"] / row["units"]
    console.print(
        f"{row['work']}: together {row['together_s']:.1f} s ({each:.2f} s a fact and locator,"
        f" {row['together_share']:.0%} of the matmul rate); {PUBLISHED:,} facts under 3 locators would take"
        f" {PUBLISHED * 3 * each / 60:.0f} min"
    )
    if "alone_s" in row:
        console.print(
            f"  one by one {row['alone_s']:.1f} s ({row['alone_share']:.0%}): {row['alone_s'] / row['together_s']:.2f}x"
            f" as long; largest difference {row['difference']:.1e} of a map's largest value"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a model's name, or gpt2-xl-shaped (random weights)")
    parser.add_argument("--device", default=default_device().type)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--facts", type=int, default=12)
    parser.add_argument("--together", type=int, help="facts at once; all if not given")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--locators", type=lambda text: text.split(","), default=list(LOCATORS))
    parser.add_argument("--no-alone", dest="alone", action="store_false", help="do not locate one by one as well")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    dtype, matmul = PRECISIONS[options.precision]
    torch.set_float32_matmul_precision(matmul)
    model = load(options.model, options.device, dtype)
    rate = matmul_rate(options.device, dtype=dtype)
    console.print(f"{heading(options.device, options.model, rate)} ({options.precision})")
    rows = compare(model, options, options.device)
    if options.out:
        found = {"machine": machine_name(options.device), "precision": options.precision, "rate": rate, "rows": rows}
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
