import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from safetensors import safe_open
from safetensors.torch import save_file
from transformer_lens import HookedTransformer

from interp.errors import DataError, InterpWarning
from interp.facts.records import Fact
from interp.locate.class_average import ClassAverage
from interp.locate.methods.causal_trace import CausalTrace
from interp.models.tokens import TOKEN_CLASSES
from interp.models.weights import weights_hash
from interp.results.record import Provenance, Record, content_hash, load_record, provenance, save_record

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
    with pytest.raises(DataError, match=r"a holds 'ClassAverage' in format '2'; expected 'CausalTrace' in format '2'"):
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


def written(record: Record, path: Path, **changed: Any) -> None:
    """A record's file as another program would write it, with entries of its header changed; None takes one out."""
    record.save(path)
    with safe_open(str(path), framework="pt") as file:
        header: dict[str, str] = {**file.metadata(), **changed}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {name: value for name, value in header.items() if value is not None})


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    """On any machine and in any process, however its dictionaries are ordered."""
    for i in range(8):
        average().save(tmp_path / str(i))
    files = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 1
    assert xxhash.xxh3_128_hexdigest(files.pop()) == "c27e2d50e7e76dd4ee5336df77307994"


@pytest.mark.parametrize(
    "change",
    ["value", "sign", "last bit", "name", "shape", "dtype", "swapped", "plain", "kind", "unit"],
)
def test_any_other_content_has_another_hash(change: str) -> None:
    tensors = {"mean": torch.arange(6.0).reshape(2, 3), "low": torch.zeros(2, 3)}
    header = {"kind": "ClassAverage", "fields": '{"title": "a"}', "unit": ""}
    before = content_hash(tensors, header)
    assert content_hash({name: tensors[name].clone() for name in ("low", "mean")}, dict(header)) == before
    if change == "value":
        tensors["mean"][1, 2] = 7
    elif change == "sign":
        tensors["low"][0, 0] = -0.0
    elif change == "last bit":
        tensors["mean"].view(torch.int32)[0, 1] += 1
    elif change == "name":
        tensors["high"] = tensors.pop("low")
    elif change == "shape":
        tensors["mean"] = tensors["mean"].reshape(3, 2)
    elif change == "dtype":
        tensors["mean"] = tensors["mean"].view(torch.int32)
    elif change == "swapped":
        tensors["mean"], tensors["low"] = tensors["low"], tensors["mean"]
    else:
        header["fields" if change == "plain" else change] += " "
    assert content_hash(tensors, header) != before


def test_another_program_may_write_the_file_anew(tmp_path: Path) -> None:
    """The hash is of the content, not of the bytes, which depend on the writer."""
    written(average(), tmp_path / "a")
    assert_same(ClassAverage.load(tmp_path / "a"), average())


@pytest.mark.parametrize("at", ["first", "middle", "last"])
def test_a_flipped_bit_of_a_tensor_is_refused_with_both_hashes(tmp_path: Path, at: str) -> None:
    path = tmp_path / "record"
    average().save(path)
    with safe_open(str(path), framework="pt") as file:
        there = file.metadata()["content_hash"]
    data = bytearray(path.read_bytes())
    size = 3 * 12 * 4  # three tensors of 2 x 6 at the end of the file
    data[len(data) - {"first": size, "middle": size // 2, "last": 1}[at]] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"record is damaged: it was written with content hash {there}, its content"):
        ClassAverage.load(path)


def test_a_changed_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record"
    with safe_open(str(_saved(path)), framework="pt") as file:
        fields = json.loads(file.metadata()["fields"])
    for changed in ({"fields": json.dumps({**fields, "title": "x"})}, {"unit": "another"}, {"content_hash": "0" * 32}):
        written(average(), path, **changed)
        with pytest.raises(DataError, match="record is damaged"):
            ClassAverage.load(path)
    written(average(), path, content_hash=None)
    with pytest.raises(DataError, match="its content hash is missing"):
        ClassAverage.load(path)


def _saved(path: Path) -> Path:
    average().save(path)
    return path


def test_a_record_without_a_hash_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "old"
    written(average(), path, format="1", content_hash=None)
    with pytest.warns(InterpWarning, match="old: written before records had a hash") as warned:
        assert_same(ClassAverage.load(path), average())
    assert len(warned) == 1
    with pytest.raises(DataError, match="holds 'ClassAverage' in format '1'"):
        load_record(ClassAverage, path, unhashed=False)
    written(average(), path, format="1")  # with a hash, of another header
    with pytest.raises(DataError, match="is damaged"):
        ClassAverage.load(path)


def test_a_record_is_read_as_that_of_its_unit_and_run_only(tmp_path: Path) -> None:
    path = tmp_path / "a"
    save_record(average(), path, unit="0003-mlp", run="one")
    assert_same(load_record(ClassAverage, path, unit="0003-mlp", run="one"), average())
    assert_same(ClassAverage.load(path), average())
    with pytest.raises(DataError, match="a holds the record of unit '0003-mlp'; expected '0003-attn'"):
        load_record(ClassAverage, path, unit="0003-attn", run="one")
    with pytest.raises(DataError, match="a holds the record of run 'one'; expected 'other'"):
        load_record(ClassAverage, path, unit="0003-mlp", run="other")
    average().save(path)
    with pytest.raises(DataError, match="a holds the record of unit ''; expected '0003-mlp'"):
        load_record(ClassAverage, path, unit="0003-mlp")


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"file/record cannot be written"):
        save_record(average(), tmp_path / "file" / "record")


def test_provenance(tiny: HookedTransformer) -> None:
    found = provenance(tiny)
    assert found.model == tiny.cfg.model_name
    assert found.weights_hash == weights_hash(tiny)
    assert (found.dtype, found.device) == ("float32", "cpu")
    assert found.versions["torch"] == torch.__version__
    assert set(found.versions) == {"interp", "torch", "transformer-lens", "transformers"}
