"""What the records of many facts take: disk, the time and memory of a resume, and of the averages of Figure 1.

The records are made, not computed: random numbers of GPT2-XL's shape (48 layers, 6,400 neurons, prompts of 10 to 15
tokens) under all four locators, in a run folder that a tiny model takes for its own. Each measurement is a process of
its own; its memory counts from when the model is loaded. ``--neurons`` makes records with all neurons, as earlier
versions did.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cattrs
import torch
from transformer_lens import HookedTransformer

from benchmarks.machine import console, seconds
from interp.facts.records import Fact
from interp.locate.methods.attribution import Attribution
from interp.locate.methods.causal_trace import CausalTrace
from interp.models.load import load_model
from interp.results.record import Provenance, Record, provenance
from interp.results.run_folder import RunFolder
from interp.study.located import class_averages
from interp.study.locating import locate_facts
from interp.study.settings import LocateSettings

TINY = Path(__file__).parents[1] / "tests" / "golden" / "tiny-gpt2"
LAYERS, NEURONS = 48, 6400
SOURCE = "made facts"
SETTINGS = LocateSettings(limit=None, samples=1, noise=0.3)


def made_facts(count: int) -> list[Fact]:
    """Prompts of 10 to 15 tokens, as the built-in facts have."""
    return [
        Fact(template="The {} is located in the city of", subject=f"Tower {i}", target=" Paris") for i in range(count)
    ]


def tokens_of(index: int) -> tuple[str, ...]:
    return tuple(f" t{i}" for i in range(10 + index % 6))


def attribution(fact: Fact, index: int, described: Provenance, neurons: bool) -> Record:
    tokens = tokens_of(index)
    whole = Attribution(
        provenance=described,
        fact=fact,
        scores=torch.randn(LAYERS, len(tokens), NEURONS) / 1e4,
        change=torch.rand(LAYERS),
        completeness_gap=torch.rand(LAYERS) / 100,
        probability=0.3,
        tokens=tokens,
        n_prompt_tokens=len(tokens),
        subject_span=(1, 4),
        answer=" Paris",
        top_answer=" Paris",
        known=True,
        scaled_tokens="all",
        steps=SETTINGS.steps,
        rule=SETTINGS.rule,
    )
    if neurons:
        return whole
    from interp.locate.methods.attribution import AttributionSums

    return AttributionSums.of(whole)


def trace(fact: Fact, index: int, state: str, described: Provenance) -> Record:
    tokens = tokens_of(index)
    chosen = {field.name: None for field in dataclasses.fields(CausalTrace)}
    given: dict[str, Any] = {
        "provenance": described,
        "fact": fact,
        "scores": torch.rand(len(tokens), LAYERS),
        "standard_error": torch.rand(len(tokens), LAYERS),
        "clean_score": 0.3,
        "corrupted_score": 0.1,
        "clean_probability": 0.3,
        "corrupted_probability": 0.1,
        "tokens": tokens,
        "subject_span": (1, 4),
        "answer": " Paris",
        "answer_id": 1,
        "top_answer": " Paris",
        "known": True,
        "replacements": (),
        "state": state,
        "window": 10,
        "samples": 1,
        "noise": 0.3,
        "seed": 1,
        "corruption": "gaussian",
        "replace": False,
        "metric": "probability",
    }
    return CausalTrace(**{**chosen, **given})


def make(folder: Path, model: HookedTransformer, count: int, neurons: bool) -> None:
    """A finished run folder."""
    facts, described = made_facts(count), provenance(model)
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    settings = dataclasses.asdict(SETTINGS)
    run = RunFolder.open(
        folder,
        {**settings, "facts": SOURCE, "facts_sha256": digest, "provenance": dataclasses.asdict(described)},
    )
    chosen = [cattrs.unstructure(fact) for fact in facts]
    run.write_json("selection.json", {"noise": 0.3, "locators": SETTINGS.locators, "facts": chosen})
    torch.manual_seed(0)
    for index, fact in enumerate(facts):
        run.put(f"{index:04d}-attribution", attribution(fact, index, described, neurons))
        for state in ("resid", "mlp", "attn"):
            run.put(f"{index:04d}-{state}", trace(fact, index, state, described))


def status(name: str) -> float:
    """MiB that the system says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def part(folder: Path, what: str, count: int) -> dict[str, Any]:
    """One measurement, in this process."""
    model = load_model(TINY, device="cpu")
    if what == "resume":
        provenance(model)  # loads what it needs
        facts = made_facts(count)

        def work() -> Any:
            return locate_facts(model, facts, folder, SETTINGS, source=SOURCE)
    else:

        def work() -> Any:
            return class_averages(RunFolder(folder))

    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
    before = status("VmHWM:")
    took, found = seconds(work, "cpu")
    content = ""
    if what == "averages":
        averaged = [[a.mean, a.low, a.high] for a in found]
        content = hashlib.sha256(b"".join(t.numpy().tobytes() for maps in averaged for t in maps)).hexdigest()[:16]
    return {"what": what, "seconds": took, "peak_mib": status("VmHWM:") - before, "content": content}


def measured(folder: Path, what: str, count: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.records",
        "--part",
        what,
        "--folder",
        str(folder),
        "--facts",
        str(count),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=1000)
    parser.add_argument("--neurons", action="store_true", help="keep all neurons, as earlier versions did")
    parser.add_argument(
        "--folder", type=Path, help="a folder that is made already, or to be kept; a temporary one else"
    )
    parser.add_argument("--part", choices=("resume", "averages"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(part(options.folder, options.part, options.facts)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = options.folder or Path(place) / "run"
        if not folder.exists():
            took, _ = seconds(
                lambda: make(folder, load_model(TINY, device="cpu"), options.facts, options.neurons), "cpu"
            )
            console.print(f"made in {took:.0f} s")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        console.print(f"{options.facts} facts: {size / 1e6:.1f} MB, {size / options.facts / 1e3:.1f} kB a fact")
        for what in ("resume", "averages"):
            console.print(measured(folder, what, options.facts))


if __name__ == "__main__":
    main()
