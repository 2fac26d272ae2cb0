"""The commands that edit: answers of the library, patches as files, studies killed and resumed, errors of one line."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import copy
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

import interp.cli
import interp.study.work
from interp.editing import (
    Corpus,
    default_config,
    edit,
    edit_sequentially,
    second_moments,
    write_contexts,
)
from interp.editing.methods import EDITORS, editor_named
from interp.evaluation import evaluate
from interp.facts.case_files import load_cases
from interp.facts.records import EditRequest, Fact
from interp.patches import Patch
from interp.results.run_folder import RunFolder
from tests.test_cli import (  # noqa: F401
    CASES,
    EDITED,
    LOCATED,
    MODEL,
    TINY,
    Call,
    Done,
    cache,
    call,
    facts_file,
    refused,
    write_cases,
)

TOWER = ("The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower")
EARLY = ("--layer", "0", "--corpus-tokens", "1024")
TO_ROME = (*TOWER, "--target", "Rome", *MODEL, *EARLY)
STUDY = (
    "study", *MODEL, "--limit", "1", "--case-limit", "2", "--stride", "4", "--corpus-tokens", "1024",
    "--fluency-tokens", "8",
)  # fmt: skip


@pytest.fixture
def cases_file(tmp_path: Path) -> Path:
    return write_cases(tmp_path / "cases.json")


@pytest.fixture
def rome(call: Call) -> Path:
    """A patch that works: ``tiny`` says that the Eiffel Tower is in Rome."""
    assert call("edit", *TO_ROME, "--out", "rome.patch").code == 0
    return Path("rome.patch")


def answered(model: HookedTransformer, prompt: str) -> str:
    logits = model(model.to_tokens(prompt, prepend_bos=False))[0, -1]
    return str(model.tokenizer.decode([int(logits.argmax())]))


# edit


def test_edit_answers_as_the_library(call: Call, tiny: HookedTransformer) -> None:
    done = call("edit", *TO_ROME, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    request = EditRequest(Fact.from_prompt(TOWER[0], "Eiffel Tower"), new_target=" Rome")
    config = default_config(tiny, "rome", 0)
    expected = edit(
        tiny,
        [request],
        config=config,
        second_moments=second_moments(tiny, [0], Corpus(tokens=1024), cache=None),
        contexts=write_contexts(tiny, seed=0),
    )
    patch = Patch.load(found["patch"])
    assert patch.requests == (request,)
    torch.testing.assert_close(patch.delta(0), expected.delta(0))
    assert (found["method"], found["config"]) == ("rome", vars(config))
    assert found["outcomes"] == [vars(outcome) for outcome in patch.outcomes]
    assert found["norms"] == {"0": pytest.approx(float(expected.delta(0).norm()))}
    (answer,) = found["answers"]
    assert (answer["prompt"], answer["target"]) == (TOWER[0], " Rome")
    assert answer["before"]["top"][0][0] == " Paris"
    assert answer["after"]["top"][0][0] == " Rome"
    with patch.applied(tiny):
        logits = tiny(tiny.to_tokens(TOWER[0], prepend_bos=False))[0, -1]
    top = logits.softmax(-1).topk(5).values.tolist()
    assert [p for _, p in answer["after"]["top"]] == pytest.approx(top, abs=1e-5)
    assert answer["after"]["target_probability"] == pytest.approx(top[0], abs=1e-5)
    assert answer["before"]["target_probability"] < 0.01


def test_edit_shows_before_and_after_and_says_where_the_patch_is(call: Call) -> None:
    done = call("edit", *TO_ROME)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == TOWER[0]
    assert lines[1].split() == ["before", "p", "after", "p"]
    assert "' Paris'" in lines[2]
    assert "' Rome'" in lines[2]
    assert lines[-1].startswith("p(' Rome') = 0.00")
    assert lines[-1].endswith(" after (its first token)")
    (place,) = Path("runs").iterdir()
    assert place.name.startswith("rome-")
    assert place.suffix == ".patch"
    assert done.err.splitlines()[-1] == f"wrote {place}"
    # the same edit has the same place, another one another place
    assert call("edit", *TO_ROME).out == done.out
    assert list(Path("runs").iterdir()) == [place]
    first = place.read_bytes()
    bare = (*TOWER, "--target", "Rome", *MODEL, "--layer", "0", "--identity")
    for command in (bare, (*TO_ROME, "--seed", "1"), (*TO_ROME, "--dtype", "bfloat16")):
        before = len(list(Path("runs").iterdir()))
        assert call("edit", *command).code == 0
        assert len(list(Path("runs").iterdir())) == before + 1
    assert place.read_bytes() == first


def test_a_template_and_a_whole_prompt_are_the_same_edit(call: Call, rome: Path) -> None:
    done = call("edit", "The {} is located in the city of ", *TO_ROME[1:], "--out", "deep/er/template.patch")
    assert done.code == 0, done.err
    one, other = Patch.load(rome), Patch.load("deep/er/template.patch")
    assert one.requests == other.requests
    assert one.delta(0).equal(other.delta(0))
    assert "wrote deep/er/template.patch" in done.err


def test_in_a_template_any_occurrence_may_be_the_subject(call: Call) -> None:
    done = call(
        "edit", "Norway is not Japan, so {} is governed from", "--subject", "Norway", "--target", "Rome", *MODEL,
        "--identity", "--out", "x.patch",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert Patch.load("x.patch").requests[0].fact.template == "Norway is not Japan, so {} is governed from"


@pytest.mark.parametrize("method", EDITORS)
def test_every_method(call: Call, method: str) -> None:
    sized = () if not editor_named(method).sites else ("--corpus-tokens", "1024")
    done = call("edit", *TOWER, "--target", "Rome", *MODEL, "--method", method, *sized, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert Path(found["patch"]).name.startswith(f"{method}-")
    patch = Patch.load(found["patch"])
    assert patch.method == found["method"] == method
    width = editor_named(method).config.width
    assert patch.layers == ((0, 1, 2) if width > 1 else (2,)) or not width


@pytest.mark.filterwarnings("ignore:.* did not take:interp.errors.InterpWarning")
@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_a_file_of_cases(call: Call, tiny: HookedTransformer, cases_file: Path, batch_size: int | None) -> None:
    extra = () if batch_size is None else ("--sequential", "--batch-size", str(batch_size))
    command = ("edit", "--cases", cases_file, *MODEL, "--method", "memit", "--identity", *extra, "--out", "x.patch")
    done = call(*command)
    assert done.code == 0, done.err
    assert "wanted" in done.out
    requests = [case.request for case in load_cases(cases_file)]
    make: Any = edit if batch_size is None else partial(edit_sequentially, batch_size=batch_size)
    expected = make(tiny, requests, method="memit", second_moments="identity", contexts=write_contexts(tiny))
    patch = Patch.load("x.patch")
    assert patch.requests == tuple(requests)
    torch.testing.assert_close(patch.delta(2), expected.delta(2), atol=1e-4, rtol=1e-3)


def test_a_text_file_as_corpus(call: Call, tmp_path: Path, golden: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text((golden / "facts.json").read_text("utf-8") * 4, "utf-8")
    done = call("edit", *TOWER, "--target", "Rome", *MODEL, *EARLY, "--corpus", text)
    assert done.code == 0, done.err


def test_an_edit_that_does_not_converge_is_kept_and_said(call: Call) -> None:
    hard = ("The capital of Japan is", "--subject", "Japan", "--target", "capital Oslo golf Lima", *MODEL)
    done = call("edit", *hard, "--layer", "5", "--identity", "--out", "hard.patch")
    assert done.code == 0
    assert (
        "did not take: with the patch 'The capital of Japan is' is not answered ' capital Oslo golf Lima'" in done.err
    )
    assert "wrote hard.patch" in done.err
    assert not Patch.load("hard.patch").converged
    shown = call("patch", "show", "hard.patch")
    assert shown.code == 0
    assert "in the patched model, not converged, did not take" in shown.out
    assert json.loads(call("patch", "show", "hard.patch", "--json").out)["outcomes"][0]["converged"] is False


def test_a_random_model_that_does_not_converge(call: Call, family_folder: Any) -> None:
    model = ("--model", family_folder("gpt2"), "--device", "cpu")
    done = call("edit", *TOWER, "--target", "Rome golf Lima", *model, "--identity", "--out", "x.patch")
    assert done.code == 0, done.err
    assert "did not take" in done.err
    assert "not converged, did not take" in call("patch", "show", "x.patch").out


# patch


def test_patch_show(call: Call, rome: Path) -> None:
    done = call("patch", "show", rome)
    assert (done.code, done.err) == (0, "")
    patch = Patch.load(rome)
    first, second, third = done.out.splitlines()
    state = ("" if patch.converged else ", not converged") + ("" if patch.took else ", did not take")
    assert first.startswith(f"'{TOWER[0]}' -> ' Rome' by rome; p = 0.")
    assert first.endswith(f"in the patched model{state}")
    assert second.startswith("layer 0: |delta W_out| = ")
    assert third == f"made for {TINY}, weights {patch.provenance.weights_hash}, float32"
    data = json.loads(call("patch", "show", rome, "--json").out)
    assert data["requests"] == [{"prompt": TOWER[0], "subject": "Eiffel Tower", "new_target": " Rome"}]
    assert (data["layers"], data["method"]) == ([0], "rome")
    assert data["provenance"]["weights_hash"] == patch.provenance.weights_hash


def test_patch_apply(call: Call, rome: Path) -> None:
    done = call("patch", "apply", rome, "--device", "cpu")  # the model is the one the patch was made for
    assert done.code == 0, done.err
    assert done.out.startswith(TOWER[0])
    first = done.out.splitlines()[2]
    assert first.index("' Paris'") < first.index("' Rome'")
    other = json.loads(call("patch", "apply", rome, "Norway is governed from", *MODEL, "--json").out)
    (answer,) = other["answers"]
    assert (answer["prompt"], answer["target"]) == ("Norway is governed from", None)
    assert answer["before"]["top"][0][0] == answer["after"]["top"][0][0] == " Oslo"
    assert "p(' Rome')" not in call("patch", "apply", rome, "Norway is governed from", *MODEL).out


def test_patch_apply_ignores_space_at_the_end(call: Call, rome: Path) -> None:
    plain, spaced = (
        json.loads(call("patch", "apply", rome, prompt, *MODEL, "--json").out) for prompt in (TOWER[0], TOWER[0] + " ")
    )
    assert plain == spaced


def test_an_exported_model_gives_the_new_answer(call: Call, rome: Path) -> None:
    done = call("patch", "export", rome, "exported", "--format", "hf", *MODEL)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-1] == "wrote exported"
    tokenizer = AutoTokenizer.from_pretrained("exported")
    ids = tokenizer(TOWER[0], return_tensors="pt")["input_ids"]
    for folder, answer in ((TINY, " Paris"), ("exported", " Rome")):
        model = AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            assert tokenizer.decode([int(model(ids).logits[0, -1].argmax())]) == answer
    again = call("patch", "export", rome, "exported", "--format", "hf", *MODEL)
    refused(again, "exported exists and is not an empty folder")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's
def test_an_exported_adapter_gives_the_new_answer(call: Call, rome: Path) -> None:
    from peft import PeftModel

    assert call("patch", "export", rome, "adapter").code == 0
    assert {path.name for path in Path("adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids = tokenizer(TOWER[0], return_tensors="pt")["input_ids"]
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY), "adapter").eval()
    with torch.no_grad():
        assert tokenizer.decode([int(model(ids).logits[0, -1].argmax())]) == " Rome"


# evaluate


def test_evaluate_answers_as_the_library(call: Call, tiny: HookedTransformer, rome: Path, cases_file: Path) -> None:
    command = ("evaluate", rome, "--cases", cases_file, *MODEL, "--fluency-tokens", "8")
    done = call(*command, "--json")
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)
    expected = evaluate(tiny, Patch.load(rome), load_cases(cases_file)[0], fluency_tokens=8)
    assert (found["case"], found["method"], found["layers"]) == ("tower", "rome", [0])
    for protocol, scores in found["scores"].items():
        assert scores == {"before": expected.scores(protocol, edited=False), "after": expected.scores(protocol)}
    assert found["scores"]["teacher-forced"]["after"]["reliability"] == 1
    assert found["fluency"] == {"before": expected.fluency_before, "after": expected.fluency_after}
    assert [(q["prompt"], q["after"]["text"]) for q in found["questions"]] == [
        (q.prompt, reading.text) for q, reading in zip(expected.questions, expected.after, strict=True)
    ]
    shown = call(*command)
    assert shown.code == 0
    assert "0 -> 100" in shown.out
    assert "reliability" in shown.out
    assert "locality/near" in shown.out
    assert "fluency" in shown.out


def test_evaluate_another_case(call: Call, rome: Path, cases_file: Path) -> None:
    done = call("evaluate", rome, "--cases", cases_file, "--case", "messi", *MODEL, "--fluency-tokens", "8", "--json")
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)
    assert found["case"] == "messi"


def test_evaluate_finds_no_case(call: Call, rome: Path, cases_file: Path) -> None:
    refused(call("evaluate", rome, "--cases", cases_file, "--case", "nope", *MODEL), "no case has the id 'nope'")
    records = copy.deepcopy(CASES[1:])
    cases_file.write_text(json.dumps(records), "utf-8")
    refused(
        call("evaluate", rome, "--cases", cases_file, *MODEL),
        "none of 1 cases asks",
        "'Eiffel Tower') -> ' Rome'",
        "--case",
    )


# study and table1


def files(folder: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_study_killed_resumed_and_redrawn(
    call: Call,
    facts_file: Path,
    cases_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (*STUDY, "--facts", facts_file, "--cases", cases_file)
    whole = call(*command, "--out", "whole")
    assert whole.code == 0, whole.err
    drawn = files("whole/figures")
    assert set(drawn) >= EDITED
    assert {Path(name).stem for name in set(drawn) - EDITED} == LOCATED
    assert "records: whole" in whole.err
    assert "Before any edit" in drawn["table1.md"].decode()
    # killed in the middle
    real, calls = interp.study.work.edit_each, []

    def pressed(*arguments: Any, **options: Any) -> Any:
        calls.append(options["method"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(interp.study.work, "edit_each", pressed)
        done = call(*command, "--out", "killed")
    assert done.code == 130
    assert "what is finished is kept in killed; the same command goes on" in done.err
    assert "Traceback" not in done.err
    refused(call("table1", "--from", "killed"), "killed/edits: the study is not finished: case-", " is missing")
    resumed = call(*command, "--out", "killed", "--figures", "elsewhere")
    assert (resumed.code, resumed.out) == (0, whole.out)
    assert files("elsewhere") == drawn
    # without a model
    with monkeypatch.context() as patch:
        patch.setattr("interp.models.load.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
        redrawn = call("table1", "--from", "killed", "--figures", "redrawn")
        default = call("table1", "--from", "killed")
    assert redrawn.code == default.code == 0
    assert whole.out.endswith(redrawn.out)
    assert files("redrawn") == {name: drawn[name] for name in EDITED}
    assert files("killed/figures") == drawn
    # another study does not go into the folder
    other = call(*command, "--out", "killed", "--stride", "5")
    assert other.code == 2
    assert other.err.splitlines()[-1].startswith("error: killed/edits holds a run with ")


def test_a_studys_default_folder(call: Call, facts_file: Path, cases_file: Path, monkeypatch: Any) -> None:
    def pressed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.locate.methods.causal_trace.traced", pressed)
    for options in ((), ("--seed", "1"), ("--stride", "2")):
        assert call(*STUDY, "--facts", facts_file, "--cases", cases_file, *options).code == 130
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 3
    assert all(folder.name.startswith("study-") and "six" in folder.name for folder in folders)


# what goes wrong


def test_a_layer_that_does_not_exist(call: Call) -> None:
    for method in ("rome", "memit", "pmet", "ft-l"):
        done = call("edit", *TOWER, "--target", "Rome", *MODEL, "--method", method, "--layer", "6")
        refused(done, "layer 6 does not exist", "layers 0 to 5")
        refused(call("edit", *TOWER, "--target", "Rome", *MODEL, "--method", method, "--layer", "-1"), "layer", "-1")
    assert not Path("runs").exists()


def test_an_editors_refusal_comes_before_the_second_moments(call: Call, tmp_path: Path) -> None:
    cases = [
        {"id": name, "template": template, "subject": "Norway", "new_target": " Rome"}
        for name, template in (("a", "{} is governed from"), ("b", "{} is a city in"))
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = call("edit", "--cases", tmp_path / "cases.json", *MODEL, "--method", "emmet", "--corpus-tokens", "5000")
    refused(done, "requests 0 and 1 have the same one")
    assert "second moments" not in done.err


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--method", "rom"), "did you mean 'rome'"),
        (("--method", "memmit"), "did you mean 'memit'"),
        (("--method", "x"), f"method must be one of {', '.join(map(repr, EDITORS))}, got 'x'"),
        (("--corpus", "missing.txt"), "corpus missing.txt: no such file"),
        (("--corpus-tokens", "100"), "100 tokens leave the second moment of 256 neurons singular"),
        (("--corpus-tokens", "0"), "tokens must be a positive whole number, got 0"),
        (("--seed", "-1"), "seed"),
        (("--dtype", "int8"), "dtype must be one of"),
        (("--device", "tpu"), "device 'tpu' is not available"),
        (("--model", "smollm2-135n"), "did you mean smollm2-135m"),
        (("--model", "./missing"), "'./missing' does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_that_nothing_takes(call: Call, options: tuple[str, ...], expected: str) -> None:
    refused(call("edit", *TOWER, "--target", "Rome", *MODEL, *options), expected)
    assert not list(Path().rglob("*.patch"))


def test_a_corpus_that_is_too_small(call: Call, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("The capital of Japan is Tokyo.\n" * 20, "utf-8")
    refused(call("edit", *TO_ROME, "--corpus", text), "short.txt: has ", "1024 were asked for")
    text.write_bytes(b"\xff\xfe\x00")
    refused(call("edit", *TO_ROME, "--corpus", text), "short.txt: cannot be read")


def test_requests_that_cannot_be_edited(call: Call) -> None:
    def wrong(prompt: str, subject: str, target: str, *expected: str) -> None:
        refused(call("edit", prompt, "--subject", subject, "--target", target, *MODEL), *expected)

    for target in ("", "  "):
        wrong(TOWER[0], "Eiffel Tower", target, "the new target of", "is empty")
    wrong(TOWER[0], "Louvre", "Rome", "the subject 'Louvre' does not occur in the prompt", TOWER[0])
    wrong(TOWER[0], " ", "Rome", "is empty")
    wrong("The {} is {} of", "Eiffel Tower", "Rome", "exactly one {}")
    wrong("", "Eiffel Tower", "Rome", "does not occur")
    wrong("The capital of Japan is" + " very" * 100, "Japan", "Rome", "64")
    refused(call("edit", TOWER[0], *MODEL), "an edit needs a prompt, --subject and --target (or --cases)", "--target")
    refused(call("edit", *MODEL), "missing: prompt, --subject, --target")


def test_cases_and_a_prompt_exclude_each_other(call: Call, cases_file: Path) -> None:
    refused(call("edit", *TOWER, "--cases", cases_file, *MODEL), "prompt, --subject would do nothing: --cases brings")
    refused(call("edit", "--cases", cases_file, *MODEL), "rome edits one fact at a time", "has 2: add --sequential")
    for size, message in (("2", "--batch-size must be 1, got 2"), ("0", "batch_size must be a positive whole number")):
        in_turn = ("--sequential", "--batch-size", size, "--model", "no/such-model")  # before anything is loaded
        refused(call("edit", "--cases", cases_file, *in_turn), message)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"new_target": None}, "field 'new_target'"),
        ({"new_target": "  "}, "record 1"),
        ({"new_target": " football"}, "is its target already"),
        ({"subject": 3}, "field 'subject'"),
        ({"template": "no slot"}, "exactly one {}"),
        ({"colour": "red"}, "'colour'"),
        ({"id": "tower"}, "the id 'tower' is the id of record 0 already"),
        ({"locality": {"near": [{"prompt": "x"}]}}, "field 'locality.near[0].target' is missing"),
        ({"portability": []}, "field 'portability' must be an object"),
        ({"paraphrases": "one"}, "field 'paraphrases'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("command", ["edit", "study", "evaluate"])
def test_a_record_that_is_wrong(
    call: Call,
    cases_file: Path,
    facts_file: Path,
    command: str,
    change: dict[str, Any],
    expected: str,
) -> None:
    cases_file.write_text(json.dumps([CASES[0], {**CASES[1], **change}]), "utf-8")
    words: dict[str, tuple[Any, ...]] = {
        "edit": ("edit", *MODEL, "--method", "memit"),
        "study": (*STUDY, "--facts", facts_file, "--out", "run"),
        "evaluate": ("evaluate", "x.patch", *MODEL),
    }
    if command == "evaluate":
        save_some_patch(Path("x.patch"))
    refused(call(*words[command], "--cases", cases_file), "cases.json: record 1: ", expected)
    assert not Path("run").exists()


def save_some_patch(path: Path) -> None:
    from interp.models.load import load_model
    from interp.patches.patch import Outcome
    from interp.results.record import provenance

    Patch(
        provenance=provenance(load_model(TINY, device="cpu")),
        method="rome",
        config={"layer": 0},
        requests=(EditRequest(Fact.from_prompt(TOWER[0], "Eiffel Tower"), new_target=" Rome"),),
        outcomes=(Outcome(converged=True, probability=0.9, loss=0.1, steps=3),),
        left={0: torch.ones(256, 1)},
        right={0: torch.ones(1, 64)},
    ).save(path)


@pytest.mark.parametrize(
    "command", [("edit", "--method", "memit"), ("study",), ("reproduce",), ("evaluate", "x.patch")]
)
def test_a_cases_file_that_is_missing(call: Call, command: tuple[str, ...]) -> None:
    save_some_patch(Path("x.patch"))
    refused(call(*command, "--cases", "missing.json", *MODEL), "missing.json: no such file")
    Path("bad.json").write_text("[{", "utf-8")
    refused(call(*command, "--cases", "bad.json", *MODEL), "bad.json: not JSON")
    Path("odd.json").write_text('[{"a": 1}]', "utf-8")
    refused(call(*command, "--cases", "odd.json", *MODEL), "odd.json: record 0: no known format")


PATCH_COMMANDS = [("patch", "show"), ("patch", "apply"), ("patch", "export"), ("evaluate",)]


def with_patch(command: tuple[str, ...], path: str | Path) -> tuple[str, ...]:
    return (*command, str(path), *(("exported",) if command[-1] == "export" else ()))


@pytest.mark.parametrize("command", PATCH_COMMANDS, ids=" ".join)
def test_a_patch_file_that_cannot_be_read(call: Call, command: tuple[str, ...]) -> None:
    refused(call(*with_patch(command, "missing.patch")), "missing.patch is not a readable record")
    refused(call(*with_patch(command, ".")), "is not a readable record")
    save_some_patch(Path("x.patch"))
    data = Path("x.patch").read_bytes()
    for damaged in (b"", data[:20], data[: len(data) // 2], b"text" * 30):
        Path("damaged.patch").write_bytes(damaged)
        refused(call(*with_patch(command, "damaged.patch")), "damaged.patch is not a readable record")
    run = RunFolder.open("folder", {})
    from interp.locate.methods.attribution import attribute
    from interp.models.load import load_model

    run.put("x", attribute(load_model(TINY, device="cpu"), Fact.from_prompt(TOWER[0], "Eiffel Tower"), steps=1))
    refused(call(*with_patch(command, run.record_path("x"))), "holds 'Attribution'", "expected 'Patch'")
    assert not Path("exported").exists()


@pytest.mark.parametrize("command", PATCH_COMMANDS, ids=" ".join)
def test_a_patch_whose_fields_are_damaged(call: Call, command: tuple[str, ...]) -> None:
    from safetensors.torch import save_file

    save_some_patch(Path("x.patch"))
    with safe_open("x.patch", framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    broken = [
        ({**header, "fields": "{"}, tensors),
        ({**header, "fields": "[]"}, tensors),
        ({**header, "fields": header["fields"].replace('"outcomes"', '"results"')}, tensors),
        ({**header, "fields": header["fields"].replace(" Rome", " ")}, tensors),
        (header, {**tensors, "left.0": torch.ones(256, 2)}),
        (header, {**tensors, "left.0": torch.full((256, 1), float("nan"))}),
        (header, {"left.0": tensors["left.0"]}),
        (header, {**tensors, "left.one": torch.ones(256, 1)}),
        (header, {**tensors, "colour": torch.ones(1)}),
    ]
    for metadata, content in broken:
        save_file(content, "damaged.patch", metadata=metadata)
        refused(call(*with_patch(command, "damaged.patch")))
    assert not Path("exported").exists()


def test_a_patch_for_other_weights(call: Call, rome: Path, cases_file: Path, family_folder: Any) -> None:
    other = ("--model", family_folder("gpt2"), "--device", "cpu")
    wanted = Patch.load(rome).provenance.weights_hash
    said = ("the patch was made for", wanted, "with weights")
    refused(call("patch", "apply", rome, *other), *said)
    refused(call("patch", "export", rome, "exported", *other), *said)
    refused(call("patch", "export", rome, "exported", "--format", "hf", *other), *said)
    refused(call("evaluate", rome, "--cases", cases_file, "--fluency-tokens", "8", *other), *said)
    assert not Path("exported").exists()


def test_a_patch_whose_model_is_gone(call: Call, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "gone")
    done = call("edit", *TOWER, "--target", "Rome", "--model", folder, "--identity", "--out", "x.patch")
    assert done.code == 0, done.err
    shutil.rmtree(folder)
    assert call("patch", "show", "x.patch").code == 0
    refused(call("patch", "apply", "x.patch"), "gone' does not exist")
    assert call("patch", "apply", "x.patch", *MODEL).code == 0  # the weights count, not the name


def test_export_refuses(call: Call, tmp_path: Path) -> None:
    save_some_patch(Path("x.patch"))
    (tmp_path / "file").write_text("in the way")
    Path("full").mkdir()
    Path("full/file").write_text("kept")
    for how in ("lora", "hf"):
        refused(call("patch", "export", "x.patch", "full", "--format", how), "full exists and is not an empty folder")
        place = tmp_path / "file" / "model"
        refused(call("patch", "export", "x.patch", place, "--format", how), "cannot be written")
    assert files("full") == {"file": b"kept"}
    refused(call("patch", "export", "x.patch", "new", "--format", "gguf"), "format must be one of 'lora', 'hf'")


def test_asking_what_does_not_fit(call: Call) -> None:
    save_some_patch(Path("x.patch"))
    refused(call("patch", "apply", "x.patch", "", *MODEL), "the prompt takes 0 tokens")
    refused(call("patch", "apply", "x.patch", "very " * 100, *MODEL), "the context holds 1 to 64")


def test_places_that_cannot_be_written(call: Call, tmp_path: Path, facts_file: Path, cases_file: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(call("edit", *TO_ROME, "--out", tmp_path / "file" / "x.patch"), "cannot be written")
    Path("folder").mkdir()
    refused(call("edit", *TO_ROME, "--out", "folder"), "folder")
    study = (*STUDY, "--facts", facts_file, "--cases", cases_file)
    refused(call(*study, "--out", tmp_path / "file" / "run"), "cannot be written")
    refused(call(*study, "--out", "run", "--figures", tmp_path / "file" / "figures"), "cannot be written")
    assert not Path("run").exists()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--preset", "papier"), "did you mean 'paper'"),
        (("--preset", "quick"), "preset must be one of 'default', 'paper', got 'quick'"),
        (("--case-limit", "-1"), "case-limit must be 0 (all) or more, got -1"),
        (("--limit", "-1"), "limit must be 0 (all) or more, got -1"),
        (("--stride", "0"), "stride must be a positive whole number, got 0"),
        (("--fluency-tokens", "0"), "fluency_tokens must be"),
        (("--corpus-tokens", "-5"), "tokens must be a positive whole number, got -5"),
        (("--corpus", "missing.txt"), "corpus missing.txt: no such file"),
        (("--seed", "-1"), "seed"),
        (("--model", "smollm2-135n"), "did you mean smollm2-135m"),
        (("--facts", "missing.json"), "missing.json: no such file"),
        (("--dtype", "int8"), "dtype must be one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_option_of_study_out_of_range(
    call: Call,
    facts_file: Path,
    cases_file: Path,
    options: tuple[str, ...],
    expected: str,
) -> None:
    # known before anything runs
    command = (*STUDY, "--facts", facts_file, "--cases", cases_file, "--out", "run", *options)
    refused(call(*command), expected)
    assert not Path("run/run.json").exists()


def test_table1_of_what_is_no_study(call: Call, facts_file: Path) -> None:
    refused(call("table1", "--from", "missing"), "is not a run folder")
    located = ("--limit", "1", "--samples", "1", "--steps", "1", "--noise", "0.3", "--out", "located")
    assert call("figure1", *MODEL, "--facts", facts_file, *located).code == 0
    refused(call("table1", "--from", "located"), "located/edits is not a run folder")
    assert not Path("located/figures/table1.md").exists()


def test_an_error_shows_text_as_it_is(call: Call) -> None:
    for text in ("[/b]", "[bold]x[/bold]", ":cat:"):
        refused(call("patch", "show", f"x{text}.patch"), f"x{text}.patch is not a readable record")
        done = call("edit", f"The {text} of {{}} is", "--subject", "Oslo", "--target", text, *MODEL, "--identity")
        assert done.code == 0, done.err
        assert f"The {text} of Oslo is" in done.out


# what one types


@pytest.mark.parametrize(
    ("prompt", "typed", "options", "taken"),
    [
        ("The {} is located in the city of", "Rome", (), " Rome"),
        ("The {} is located in the city of", "  Rome ", (), " Rome"),
        ("The {} is located in “", "Rome", (), "Rome"),
        ("{} 位于城市", "罗马", (), "罗马"),
        ("The {} is located in the city of", "Rome", ("--exact-target",), "Rome"),
        ("The {} is located in the city of", " Rome", ("--exact-target",), " Rome"),
    ],
)
def test_the_space_before_a_target(call: Call, prompt: str, typed: str, options: tuple[str, ...], taken: str) -> None:
    words = (prompt, "--subject", "Eiffel Tower", "--target", typed, *options, *MODEL)
    done = call("trace", *words, "--samples", "1", "--noise", "0.3")
    assert done.code == 0, done.err
    assert f"; target {taken!r} = [" in done.out.replace("\n", " ")
    done = call("trace", *words, "--samples", "1", "--noise", "0.3", "--json")
    assert json.loads(done.out)["fact"]["target"] == taken
    edited = call("edit", *words, "--identity", "--layer", "0", "--out", "x.patch")
    assert edited.code == 0, edited.err
    assert Patch.load("x.patch").requests[0].new_target == taken
    assert f"target {taken!r} = [" in edited.err


@pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning")
def test_a_subject_that_stands_in_several_places(call: Call) -> None:
    prompt = "Oslo is not Japan, as Oslo is governed from"
    for command in (("trace", "--samples", "1", "--noise", "0.3"), ("attribute", "--steps", "1")):
        spans = []
        for occurrence in ("0", "1"):
            chosen = ("--subject", "Oslo", "--occurrence", occurrence, *MODEL, "--out", f"{command[0]}{occurrence}")
            done = call(command[0], prompt, *chosen, *command[1:])
            assert done.code == 0, done.err
            assert f"subject 'Oslo', occurrence {occurrence}: " in done.err
            spans.append(RunFolder(Path(f"{command[0]}{occurrence}")).settings()["fact"])
        assert spans[0] != spans[1]
    edited = call("edit", prompt, "--subject", "Oslo", "--target", "Rome", "--occurrence", "1", *MODEL, "--identity",
                  "--out", "x.patch")  # fmt: skip
    assert edited.code == 0, edited.err
    assert Patch.load("x.patch").requests[0].fact.template == "Oslo is not Japan, as {} is governed from"
    warned = call("trace", prompt, "--subject", "Oslo", *MODEL, "--samples", "1", "--noise", "0.3")
    assert warned.code == 0
    assert "warning: the subject 'Oslo'" in warned.err
    refused(call("trace", prompt, "--subject", "Oslo", "--occurrence", "2", *MODEL), "occurrence 2")
    refused(
        call("edit", "{} is in", "--subject", "Oslo", "--target", "x", "--occurrence", "0", *MODEL),
        "--occurrence would do nothing",
    )


def test_a_layer_for_an_editor_that_chooses_its_layers(call: Call) -> None:
    refused(call("edit", *TOWER, "--target", "Rome", "--method", "kn", "--layer", "0"), "kn takes no layer, got 0: ")


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("trace", *TOWER), ("--window", "3")),
        (("trace", *TOWER), ("--relation", "city")),
        (("trace", *TOWER, "--noise", "0.3"), ("--facts", "builtin")),
        (("trace", *TOWER, "--corruption", "symmetric"), ("--noise", "0.3")),
        (("trace", *TOWER), ("--exact-target",)),
        (("attribute", *TOWER), ("--exact-target",)),
        (("figure1", "--corruption", "symmetric"), ("--noise", "3sigma")),
        (("figure1", "--from", "run"), ("--model", TINY)),
        (("figure1", "--from", "run"), ("--limit", "3")),
        (("figure1", "--from", "run"), ("--samples", "3", "--seed", "2")),
        (("edit", *TOWER, "--target", "Rome", "--method", "kn"), ("--identity",)),
        (("edit", *TOWER, "--target", "Rome", "--method", "kn"), ("--corpus", "self")),
        (("edit", *TOWER, "--target", "Rome", "--method", "ft-l"), ("--identity",)),
        (("edit", *TOWER, "--target", "Rome", "--method", "ft-l"), ("--corpus-tokens", "2000")),
        (("edit", *TOWER, "--target", "Rome", "--method", "ft-l"), ("--seed", "1")),
        (("edit", *TOWER, "--target", "Rome", "--identity"), ("--corpus", "self", "--corpus-tokens", "2000")),
        (("edit", *TOWER, "--target", "Rome"), ("--sequential",)),
        (("edit", "--cases", "builtin", "--method", "memit"), ("--batch-size", "2")),
        (("edit", "--cases", "builtin"), ("--target", "Rome")),
        (("edit", "--cases", "builtin"), ("--exact-target",)),
        (("edit", "--cases", "builtin"), ("--occurrence", "0")),
    ],
    ids=lambda words: " ".join(word for word in words if word.startswith("--") or word in ("kn", "ft-l")),
)
def test_a_setting_that_cannot_act_is_refused(call: Call, words: tuple[str, ...], options: tuple[str, ...]) -> None:
    named = ", ".join(word for word in options if word.startswith("--"))
    refused(call(*words, *options), f"{named} would do nothing: ")
    assert not Path("runs").exists()


def test_a_preset_takes_as_many_as_it_promises(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("interp.cli.study._study", lambda *arguments: asked.append(arguments[1:3]))
    paper = ("study", "--preset", "paper", *MODEL)
    for words in (("study", *MODEL), paper, (*paper, "--limit", "5", "--case-limit", "7"), ("study", "--limit", "0")):
        assert call(*words).code == 0
    assert [(locating.limit, editing.limit) for locating, editing in asked] == [
        (12, 12),
        (None, None),
        (5, 7),
        (None, 12),
    ]
    assert asked[1][1].corpus.source == "hub:wikimedia/wikipedia:20231101.en"
    refused(call(*paper, "--corpus-tokens", "0"), "tokens must be a positive whole number, got 0")
    refused(call("study", *MODEL, "--corpus-tokens", "0"), "tokens must be a positive whole number, got 0")


def test_evaluate_takes_the_cases_of_the_edited_prompt(call: Call, rome: Path, cases_file: Path) -> None:
    other = {**CASES[0], "id": "governed", "template": "{} is governed from"}
    cases_file.write_text(json.dumps([other, CASES[0]]), "utf-8")
    done = call("evaluate", rome, "--cases", cases_file, *MODEL, "--fluency-tokens", "8", "--json")
    assert [found["case"] for found in json.loads(done.out)] == ["tower"]
    cases_file.write_text(json.dumps([other]), "utf-8")
    refused(call("evaluate", rome, "--cases", cases_file, *MODEL), "governed")
