"""Any value as any option: refused by name, or a finite result."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

import interp
from interp.editing import EDITORS
from interp.models.weights import weights_hash
from tests.fuzz.hostile import VALUES
from tests.fuzz.samples import CONTEXTS, TO_ROME, TOWER
from tests.fuzz.trials import Model, fuzzed, tried

_TRACE = {
    "state": "mlp", "window": 2, "samples": 2, "noise": 0.3, "seed": 1, "corruption": "gaussian",
    "metric": "probability", "sever": None, "max_batch_tokens": 100, "replace": False,
}  # fmt: skip
_ATTRIBUTE = {"tokens": "last", "steps": 2, "rule": "riemann", "max_batch_tokens": 100}
_CONFIGS: dict[type, tuple[str, dict[str, Any]]] = {
    interp.editing.RomeConfig: ("rome", {"layer": 2, "steps": 2}),
    interp.editing.MemitConfig: ("memit", {"layers": (1, 2), "steps": 2}),
    interp.editing.PmetConfig: ("pmet", {"layers": (1, 2), "steps": 2}),
    interp.editing.EmmetConfig: ("emmet", {"layers": (2,), "steps": 2}),
    interp.editing.AlphaEditConfig: ("alphaedit", {"layers": (1, 2), "steps": 2}),
    interp.editing.FtConfig: ("ft-l", {"layer": 2, "steps": 2}),
    interp.editing.KnConfig: ("kn", {"attribution_steps": 2}),
}
_RECORDS: dict[type, dict[str, Any]] = {
    interp.LocateSettings: {},
    interp.EditStudySettings: {},
    interp.Corpus: {},
    interp.Cell: {"token": 1, "layer": 1},
}
# a request for as much work as these is refused too, but by a bound that may be as high as a patient person wants
_QUICK = [value for value in VALUES if not (type(value) in (int, float) and 1e5 < value < 1e9)]
_values = st.sampled_from(_QUICK)


@pytest.fixture(scope="module")
def model(tiny: HookedTransformer) -> Any:
    before = weights_hash(tiny)
    yield Model(tiny)
    assert weights_hash(tiny) == before
    assert not interp.applied_patches(tiny)


def _finite(found: Any) -> None:
    assert torch.isfinite(found.scores).all()


def _finite_patch(patch: Any) -> None:
    assert all(torch.isfinite(patch.delta(layer)).all() for layer in patch.layers)


@fuzzed(30)
@given(name=st.sampled_from(sorted(_TRACE)), value=_values)
def test_any_option_of_a_trace(model: Model, outcomes: Counter[str], name: str, value: Any) -> None:
    tried(lambda: interp.causal_trace(model.it, TOWER, **{**_TRACE, name: value}), outcomes, check=_finite)


@fuzzed(20)
@given(name=st.sampled_from(sorted(_ATTRIBUTE)), value=_values)
def test_any_option_of_attribution(model: Model, outcomes: Counter[str], name: str, value: Any) -> None:
    tried(lambda: interp.attribute(model.it, TOWER, **{**_ATTRIBUTE, name: value}), outcomes, check=_finite)


@fuzzed(30)
@given(cls=st.sampled_from([*_CONFIGS, *_RECORDS]), data=st.data())
def test_any_field_of_a_config(model: Model, outcomes: Counter[str], cls: type, data: st.DataObject) -> None:
    method, base = _CONFIGS.get(cls, ("", _RECORDS.get(cls, {})))
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(cls)]))
    value = data.draw(_values)
    config = tried(lambda: cls(**{**base, name: value}), outcomes)
    if config is None or not method or (name == "steps" and config.steps > 10):
        return
    given = {} if method in ("ft-l", "kn") else {"second_moments": _identity(model.it), "contexts": CONTEXTS}
    tried(
        lambda: interp.edit(model.it, [TO_ROME], method=method, config=config, **given), outcomes, check=_finite_patch
    )


def _identity(model: HookedTransformer) -> dict[int, torch.Tensor]:
    return {layer: torch.eye(model.cfg.d_mlp) for layer in range(model.cfg.n_layers)}


@fuzzed(30)
@given(
    name=st.sampled_from(["second_moments", "contexts", "method", "config", "requests", "max_batch_tokens"]),
    value=st.one_of(
        _values,
        st.sampled_from(["identity", ["{}", "{}"], [["{}"], []], ["no"], [" {}"], [["{}", "{} {}"]], "{}", *EDITORS]),
        st.sampled_from(["small", "nan", "zero", "other"]),
    ),
)
def test_any_argument_of_an_edit(model: Model, outcomes: Counter[str], name: str, value: Any) -> None:
    d_mlp = model.it.cfg.d_mlp
    moments = {
        "small": {2: torch.eye(3)},
        "nan": {2: torch.full((d_mlp, d_mlp), float("nan"))},
        "zero": {2: torch.zeros(d_mlp, d_mlp)},
        "other": {0: torch.eye(d_mlp)},
    }
    if name in ("second_moments", "contexts") and value is None:
        return  # the model writes its own
    options: dict[str, Any] = {
        "second_moments": _identity(model.it),
        "contexts": CONTEXTS,
        "method": "rome",
        "config": interp.editing.RomeConfig(layer=2, steps=2),
        "requests": [TO_ROME],
    }
    options[name] = moments.get(value, value) if name == "second_moments" and isinstance(value, str) else value
    requests = options.pop("requests")
    tried(lambda: interp.edit(model.it, requests, **options), outcomes, check=_finite_patch)


@fuzzed(20)
@given(
    token=st.sampled_from([-1, 0, 3, 99, 2**40, None, 1.0]),
    layer=st.sampled_from([-1, 0, 5, 6, 2**40, "1"]),
    state=st.sampled_from(["resid", "mlp", "attn", "x", None]),
    window=st.sampled_from([1, 3, 0, -1, 2**40]),
)
def test_any_cell(model: Model, outcomes: Counter[str], token: Any, layer: Any, state: Any, window: Any) -> None:
    def patched() -> Any:
        runs = interp.clean_and_corrupted(model.it, TOWER, samples=2, noise=0.3)
        return interp.patch_activations(runs, [interp.Cell(token=token, layer=layer, state=state, window=window)])

    def check(found: Any) -> None:
        assert 0 <= found.patched.probability <= 1

    tried(patched, outcomes, check=check)
