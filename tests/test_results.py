import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformer_lens import HookedTransformer

from interp.errors import DataError
from interp.facts import Fact
from interp.locate.causal_trace import CausalTrace
from interp.locate.class_average import ClassAverage
from interp.models import weights_hash
from interp.results import Provenance, Record, load_record, provenance, save_record, write_atomically
from interp.tokens import TOKEN_CLASSES

SOURCE = Provenance(
    model="a model", weights_hash="0" * 32, dtype="float32", device="cpu", versions={"interp": "1", "torch": "2"}
)


def average() -> ClassAverage:
    mean = torch.arange(12.0).reshape(2, 6).T
    mean[1] = math.nan
    return ClassAverage(
        provenance=SOURCE,
        method="mlp",
        title="Größe",
        unit="p(answer)",
        token_classes=TOKEN_CLASSES,
        mean=mean,  # not contiguous
        low=mean - 1,
        high=mean + 1,
        peak=(1, -1, 1, 1, 1, 1),
        peak_low=(0, -1, 0, 0, 0, 0),
        peak_high=(1, -1, 1, 1, 1, 1),
        n_facts=(3, 0, 3, 3, 2, 3),
        n_tokens=(3, 0, 3, 3, 9, 3),
    )


def trace() -> CausalTrace:
    return CausalTrace(
        provenance=SOURCE,
        fact=Fact(template="{} is governed from", subject="Łódź", target=" Oslo", paraphrases=("In {}", "{} x")),
        scores=torch.rand(5, 3),
        standard_error=torch.full((5, 3), math.nan),
        clean_score=0.1 + 0.2,
        corrupted_score=-math.inf,
        clean_probability=1 / 3,
        corrupted_probability=5e-324,
        tokens=("Ł", "\ufffd", " is", " governed", " from"),
        subject_span=(0, 2),
        answer=" Oslo",
        answer_id=7,
        top_answer="\n",
        known=False,
        foil=None,
        foil_id=None,
        replacements=("a", "b"),
        state="resid",
        window=1,
        samples=1,
        noise=0.25,
        seed=1,
        corruption="symmetric",
        replace=False,
        metric="log_probability",
        sever=None,
    )


def assert_same(one: Record, other: Record) -> None:
    assert type(one) is type(other)
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)), field.name
        else:
            assert a == b, field.name
            assert type(a) is type(b), field.name


@pytest.mark.parametrize("record", [average(), trace()], ids=["average", "trace"])
def test_round_trip(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "new" / "folder" / "record.safetensors"
    record.save(path)
    assert_same(type(record).load(str(path)), record)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_readable_without_the_package(tmp_path: Path) -> None:
    average().save(tmp_path / "a")
    with safe_open(str(tmp_path / "a"), framework="numpy") as file:
        assert json.loads(file.metadata()["fields"])["title"] == "Größe"
        assert file.get_tensor("high")[2, 1] == 9


def test_saving_replaces(tmp_path: Path) -> None:
    average().save(tmp_path / "a")
    other = dataclasses.replace(average(), title="another")
    other.save(tmp_path / "a")
    assert_same(ClassAverage.load(tmp_path / "a"), other)


def test_wrong_kind(tmp_path: Path) -> None:
    average().save(tmp_path / "a")
    with pytest.raises(DataError, match=r"a holds 'ClassAverage' in format '1'; expected 'CausalTrace' in format '1'"):
        CausalTrace.load(tmp_path / "a")


def damaged(path: Path, kind: str) -> None:
    data = path.read_bytes()
    with safe_open(str(path), framework="pt") as file:
        header: dict[str, str] = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    fields: dict[str, Any] = json.loads(header["fields"])
    if kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "another file":
        path.write_bytes(b"a text, for once " * 9)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "missing":
        path.unlink()
    elif kind == "format":
        save_file(tensors, path, {**header, "format": "999"})
    elif kind == "no header":
        save_file(tensors, path)
    elif kind == "no tensor":
        del tensors["mean"]
        save_file(tensors, path, header)
    elif kind == "not JSON":
        save_file(tensors, path, {**header, "fields": header["fields"][:-1]})
    elif kind == "no fields":
        save_file(tensors, path, {**header, "fields": "[]"})
    elif kind == "field gone":
        del fields["unit"]
        save_file(tensors, path, {**header, "fields": json.dumps(fields)})
    elif kind == "another field":
        save_file(tensors, path, {**header, "fields": json.dumps({**fields, "colour": "red"})})
    elif kind == "malformed field":
        save_file(tensors, path, {**header, "fields": json.dumps({**fields, "peak": ["high"]})})
    else:
        raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "cut",
        "empty",
        "another file",
        "folder",
        "missing",
        "format",
        "no header",
        "no tensor",
        "not JSON",
        "no fields",
        "field gone",
        "another field",
        "malformed field",
    ],
)
def test_damaged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "record"
    average().save(path)
    damaged(path, kind)
    with pytest.raises(DataError, match="record"):
        load_record(ClassAverage, path)


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/record cannot be written"):
        save_record(average(), tmp_path / "file" / "record")


def test_nothing_is_left_when_renaming_fails(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "inside").mkdir(parents=True)  # a file cannot replace a folder
    with pytest.raises(DataError, match="place cannot be written"):
        write_atomically(place, b"data")
    assert list(tmp_path.iterdir()) == [place]
    assert list(place.iterdir()) == [place / "inside"]


def test_others_may_read(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o644


def test_provenance(tiny: HookedTransformer) -> None:
    found = provenance(tiny)
    assert found.model == tiny.cfg.model_name
    assert found.weights_hash == weights_hash(tiny)
    assert (found.dtype, found.device) == ("float32", "cpu")
    assert found.versions["torch"] == torch.__version__
    assert set(found.versions) == {"interp", "torch", "transformer-lens", "transformers"}
