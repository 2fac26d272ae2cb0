"""Files of facts and cases: every record comes out as it stands in the file, or the reader names what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.facts.case_files import load_cases
from interp.facts.fact_files import load_facts
from tests.fuzz.hostile import files, spoiled
from tests.fuzz.samples import CASES, FACT, KNOWN
from tests.fuzz.trials import fuzzed, tried


def _raw(path: Path) -> list[Any]:
    """The records of a file, read by nothing but the JSON library."""
    content = path.read_text("utf-8-sig")
    try:
        found = json.loads(content)
        return found if path.suffix == ".json" and isinstance(found, list) else [found]
    except ValueError:
        return [json.loads(line) for line in content.split("\n") if line.strip()]


@st.composite
def _written(draw: st.DrawFn, samples: list[dict[str, Any]]) -> tuple[bytes, str]:
    sample = draw(st.sampled_from(samples))
    records = draw(st.lists(st.one_of(spoiled(sample), st.just(sample)), min_size=1, max_size=3))
    suffix = draw(st.sampled_from([".json", ".jsonl"]))
    return draw(files(records, lines=suffix == ".jsonl")), suffix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@fuzzed(60)
@given(written=_written([FACT, KNOWN]), format=st.sampled_from([None, None, "interp", "known", "x"]))
def test_facts_come_out_as_they_stand_in_the_file(
    folder: Path, outcomes: Counter[str], written: tuple[bytes, str], format: str | None
) -> None:
    data, suffix = written
    path = folder / f"facts{suffix}"
    path.write_bytes(data)

    def check(found: Any) -> None:
        raw = [(record.get("prompt"), record.get("template"), record.get("subject")) for record in _raw(path)]
        assert len(found) <= len(raw)
        for fact in found:
            assert any(
                subject is not None
                and fact.subject == subject.strip()
                and (fact.template == template or fact.prompt == (prompt or "").rstrip())
                for prompt, template, subject in raw
            ), f"{fact.prompt!r} is not in the file"

    tried(lambda: load_facts(path, format=format), outcomes, check=check)


@fuzzed(90)
@given(
    written=_written(list(CASES.values())),
    format=st.one_of(st.just(None), st.sampled_from([*CASES, "x"])),
)
def test_cases_edit_what_their_file_says(
    folder: Path, outcomes: Counter[str], written: tuple[bytes, str], format: str | None
) -> None:
    data, suffix = written
    path = folder / f"cases{suffix}"
    path.write_bytes(data)

    def check(found: Any) -> None:
        text = json.dumps(_raw(path), ensure_ascii=False)
        for case in found:
            fact = case.request.fact
            assert fact.subject in fact.prompt
            for said in (fact.subject, case.request.new_target.strip()):
                assert json.dumps(said, ensure_ascii=False)[1:-1] in text, f"{said!r} is not in the file"
            probes = [p for kinds in (case.locality, case.portability) for kind in kinds.values() for p in kind]
            assert all(probe.prompt.strip() and probe.target.strip() for probe in probes)

    tried(lambda: load_cases(path, format=format), outcomes, check=check)
