"""Damage every kind of file that is written: none is silently taken for what it was.

A subject is a folder of files, a way to use it, and what that gives. After damage, its use gives the same, is refused
by name, or (a cache) gives the same again with a warning. ``sweep`` takes any number of damages, for longer trials.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import shutil
import struct
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer

from interp.editing.corpora import Corpus
from interp.editing.moments import second_moments
from interp.errors import DataError
from interp.evaluation.protocol import Answers, CaseEvaluation, ask, evaluate
from interp.facts.records import EditCase, EditRequest, Fact
from interp.locate.methods.attribution import Attribution, attribute
from interp.locate.methods.causal_trace import CausalTrace, causal_trace
from interp.models import embedded, gguf_file
from interp.models.converted import MANIFEST
from interp.patches.patch import Outcome, Patch
from interp.results.record import Record, provenance
from interp.results.run_folder import RunFolder
from interp.study.located import class_averages
from interp.study.locating import locate_facts
from interp.study.plan import planned, read_plan, write_plan
from interp.study.settings import EditStudySettings, LocateSettings


@dataclass(frozen=True)
class Subject:
    """Files to damage.

    Args:
        folder: Where they are; to be left as it is.
        use: Uses a copy of the folder; what it gives is compared.
        rebuilt: Whether damage is repaired (a cache), not refused.
        files: Which files are damaged.
    """

    folder: Path
    use: Callable[[Path], Any]
    rebuilt: bool = False
    files: str = "*"


def sweep(subject: Subject, times: int, seed: int, work: Path) -> Counter[str]:
    """Damage a copy again and again.

    Returns:
        How often which kind of damage had which outcome.

    Raises:
        AssertionError: If anything else came of it (says of what).
    """
    draw, found = random.Random(seed), Counter[str]()
    shutil.copytree(subject.folder, work / "first")
    expected = subject.use(work / "first")
    for trial in range(times):
        copy = Path(shutil.copytree(subject.folder, work / str(trial)))
        victim = draw.choice(sorted(path for path in copy.rglob(subject.files) if path.is_file()))
        kind = damage(victim, draw)
        said: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = said.append  # type: ignore[method-assign]
        logging.getLogger("interp").addHandler(handler)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                outcome = "the same" if subject.use(copy) == expected else "OTHER"
        except DataError as error:
            named = not subject.rebuilt and str(copy) in str(error)
            outcome = "refused" if named else f"OTHER: {error}"
        finally:
            logging.getLogger("interp").removeHandler(handler)
        assert not outcome.startswith("OTHER"), f"{kind} in {victim.name} went unnoticed or was met wrongly: {outcome}"
        found[f"{kind}: {outcome}{', with a warning' if said or warned else ''}"] += 1
        shutil.rmtree(copy)
    return found


def damage(path: Path, draw: random.Random) -> str:
    """Flip a bit, cut the end off or zero a block; says which."""
    data = bytearray(path.read_bytes())
    kind = draw.choice(["bit", "bit", "bit", "cut", "block"])
    if kind == "bit":
        first, last = 0, len(data)
        if path.suffix in (".safetensors", ".patch"):
            header = min(8 + struct.unpack("<Q", data[:8])[0], last)
            first, last = draw.choice([(0, header), (header, last)] if header < last else [(0, header)])
        data[draw.randrange(first, last)] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del data[draw.randrange(len(data)) :]
    else:
        at, size = draw.randrange(len(data)), draw.choice([1, 16, 512])
        data[at : at + size] = bytes(len(data[at : at + size]))
    path.write_bytes(data)
    return kind


def flat(value: Any) -> Any:
    """A result as data that compares, tensors as bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: flat(entry) for name, entry in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: flat(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [flat(entry) for entry in value]
    return repr(value)


REQUEST = EditRequest(Fact(template="{} is governed from", subject="Norway", target=" Oslo"), new_target=" Lima")


def records(model: HookedTransformer) -> list[Record]:
    """One of each kind that holds a result."""
    left, right = torch.ones(model.cfg.d_mlp or 0, 1) / 7, torch.ones(1, model.cfg.d_model) / 9
    patch = Patch(
        provenance=provenance(model),
        method="rome",
        config={"layer": 1},
        requests=(REQUEST,),
        outcomes=(Outcome(converged=True, probability=0.5, loss=1.0, steps=3),),
        left={1: left},
        right={1: right},
    )
    case = EditCase(id="norway", request=REQUEST)
    return [
        patch,
        causal_trace(model, REQUEST.fact, samples=2, noise=0.3),
        attribute(model, REQUEST.fact, steps=2),
        *ask(model, [case], fluency_tokens=3),
        evaluate(model, patch, case, fluency_tokens=3),
    ]


def record_subject(record: Record, folder: Path) -> Subject:
    record.save(folder / "result.safetensors")
    return Subject(folder, lambda copy: flat(type(record).load(copy / "result.safetensors")))


def run_subject(model: HookedTransformer, facts: list[Fact], folder: Path) -> Subject:
    """A study that is drawn, not computed again."""
    locate_facts(model, facts, folder, LocateSettings(limit=1, samples=1, window=2, steps=1, noise=0.3))
    return Subject(folder, lambda copy: flat(class_averages(RunFolder(copy))))


def plan_subject(folder: Path) -> Subject:
    """What a study of edits set out to do."""
    run = RunFolder.open(folder, {"seed": 7, "limit": 2})
    write_plan(run, planned(["a", "b"], {"attribution": 0, "mlp": 4}, 6, EditStudySettings()))
    return Subject(folder, lambda copy: flat((RunFolder(copy).settings()["seed"], read_plan(RunFolder(copy)))))


def moments_subject(model: HookedTransformer, folder: Path, files: str) -> Subject:
    """Second moments; ``text*``: the text that the model wrote for them, read again for another layer."""

    def use(copy: Path) -> Any:
        if files == "text*":
            for path in copy.rglob("layer-*"):
                path.unlink()
        return flat(dict(second_moments(model, [1, 3], Corpus(tokens=512, row=32), cache=copy).moments))

    use(folder)
    return Subject(folder, use, rebuilt=True, files=files)


def test_records(tiny: HookedTransformer, tmp_path: Path) -> None:
    made = records(tiny)
    assert {type(record) for record in made} == {Patch, CausalTrace, Attribution, Answers, CaseEvaluation}
    for i, record in enumerate(made):
        subject = record_subject(record, tmp_path / type(record).__name__)
        found = sweep(subject, 60, i, tmp_path / f"work-{i}")
        assert found["bit: refused"] > 20
        assert not any("warning" in outcome for outcome in found)


def test_run_folders(tiny: HookedTransformer, facts: list[Fact], tmp_path: Path) -> None:
    found = sweep(run_subject(tiny, facts, tmp_path / "run"), 40, 0, tmp_path / "work")
    assert found["bit: refused"] > 10
    for i in range(2):
        plan = plan_subject(tmp_path / f"plan-{i}")
        assert sweep(plan, 100, i, tmp_path / f"plan-work-{i}")["bit: refused"] > 30


@pytest.mark.filterwarnings("ignore:the second moments of:interp.errors.InterpWarning")  # few tokens are quick
@pytest.mark.parametrize("files", ["layer-*", "text*"])
def test_second_moments_are_estimated_again(tiny: HookedTransformer, tmp_path: Path, files: str) -> None:
    times = 12 if files == "layer-*" else 4  # text takes longer to write again
    found = sweep(moments_subject(tiny, tmp_path / "cache", files), times, 0, tmp_path / "work")
    assert sum(n for outcome, n in found.items() if outcome.endswith("the same, with a warning")) > times / 2
    assert not any("refused" in outcome for outcome in found)


def test_the_embedded_model_is_converted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source.gguf").write_bytes(b"weights")

    def convert(source: Path, destination: Path) -> dict[str, Any]:
        for name in ("config.json", "model.safetensors"):
            (destination / name).write_text(json.dumps({"the": name}))
        return {}

    def use(copy: Path) -> Any:
        place = embedded.folder(copy)
        return {path.name: path.read_bytes() for path in place.iterdir() if path.name != MANIFEST}

    monkeypatch.setattr(embedded, "_gguf", lambda: tmp_path / "source.gguf")
    monkeypatch.setattr(gguf_file, "_convert", convert)
    use(tmp_path / "cache")
    found = sweep(Subject(tmp_path / "cache", use, rebuilt=True), 100, 0, tmp_path / "work")
    assert sum(n for outcome, n in found.items() if outcome.endswith("the same, with a warning")) > 80
