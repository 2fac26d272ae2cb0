"""The example in the docstring of every function of the face, run on the tiny model in a folder of its own."""

from __future__ import annotations

import doctest
import inspect
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformer_lens import HookedTransformer

import interp
from interp.facts.records import EditCase, EditRequest, Fact, Probe
from interp.models import matmul_precision
from interp.patches.patch import Patch
from interp.report import report_html
from interp.results import merge_runs
from interp.study import Shard, Stage, locating_left, precision_distances

FUNCTIONS = {name: getattr(interp, name) for name in interp.__all__ if inspect.isroutine(getattr(interp, name))}
OTHERS = (
    Fact,
    EditRequest,
    Patch.applied,
    Shard,
    Stage,
    locating_left,
    matmul_precision,
    merge_runs,
    precision_distances,
    report_html,
)
EXAMPLES = FUNCTIONS | {other.__qualname__: other for other in OTHERS}


@pytest.fixture(scope="module")
def known(tiny: HookedTransformer, golden: Path, facts: list[Fact]) -> dict[str, Any]:
    """What the examples take as given."""
    fact = Fact(template="The {} is located in the city of", subject="Eiffel Tower", target=" Paris")
    japan = Fact(template="The capital of {} is", subject="Japan", target=" Tokyo")
    requests = [EditRequest(fact, new_target=" Rome"), EditRequest(japan, new_target=" Lima")]
    cases = [
        EditCase(
            id="tower",
            request=requests[0],
            paraphrases=("Visitors of the Eiffel Tower travel to",),
            locality={"near": (Probe(prompt="Visitors of the Parthenon travel to", target=" Athens"),)},
            portability={"reasoning": (Probe(prompt="The Eiffel Tower is governed from", target=" Rome"),)},
        ),
        EditCase(
            id="japan",
            request=requests[1],
            paraphrases=("Japan is governed from",),
            locality={"near": (Probe(prompt="Norway is governed from", target=" Oslo"),)},
            portability={"reasoning": (Probe(prompt="The capital city of Japan is", target=" Lima"),)},
        ),
    ]
    return {
        "interp": interp,
        "model": tiny,
        "folder": golden / "tiny-gpt2",
        "fact": fact,
        "other": Fact.from_prompt("Serena Williams plays the sport of", "Serena Williams"),
        "facts": facts,
        "request": requests[0],
        "requests": requests,
        "case": cases[0],
        "cases": cases,
    }


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder and one cache for all examples: those that begin alike go on with what is there."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("examples")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, known: dict[str, Any], workplace: Path) -> None:
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(EXAMPLES[name]) or "", dict(known), name, None, None)
    assert example.examples, f"interp.{name} has no example"
    said = io.StringIO()
    doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(example, out=said.write)
    assert not said.getvalue(), said.getvalue()
