"""Settings of the editors: the published ones, the rule for other models, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

from interp.editing import (
    EDITORS,
    AlphaEditConfig,
    EmmetConfig,
    FtConfig,
    KnConfig,
    MemitConfig,
    PmetConfig,
    RomeConfig,
    TargetConfig,
    check_config,
    default_config,
    measured,
    published,
)
from interp.errors import OptionError


def of(name, n_layers, d_mlp, gated=False):
    cfg = SimpleNamespace(model_name=name, n_layers=n_layers, d_mlp=d_mlp, gated_mlp=gated)
    return SimpleNamespace(cfg=cfg)


@pytest.fixture(autouse=True)
def _unchecked(unchecked, monkeypatch, tmp_path):
    """A stand-in for a model with the sizes of those that are too large to load: it has no weights to be found by."""
    monkeypatch.setattr(measured, "SHIPPED", tmp_path / "none")


GPT2_XL = of("gpt2-xl", 48, 6400)
GPT_J = of("EleutherAI/gpt-j-6b", 28, 16384)
LLAMA_2 = of("meta-llama/Llama-2-7b-hf", 32, 11008, True)
LLAMA_3 = of("meta-llama/Llama-3.1-8B", 32, 14336, True)
RISING = {2: (4, 5, 6, 7, 8), 3: (3, 4, 5, 6, 7, 8), 13: (13, 14, 15, 16, 17)}


@pytest.mark.parametrize(
    ("model", "method", "expected"),
    [
        (GPT2_XL, "rome", RomeConfig(layer=17)),
        (GPT2_XL, "r-rome", RomeConfig(layer=17)),
        (GPT2_XL, "memit", MemitConfig(layers=RISING[13], second_moment_weight=20_000)),
        (GPT2_XL, "ft-l", FtConfig(layer=0)),
        (GPT_J, "rome", RomeConfig(layer=5)),
        (GPT_J, "memit", MemitConfig(layers=RISING[3], steps=25, second_moment_weight=15_000)),
        (GPT_J, "pmet", PmetConfig(layers=RISING[3], second_moment_weight=6_000)),
        (GPT_J, "ft-l", FtConfig(layer=0, limit=5e-5)),
        (LLAMA_2, "rome", RomeConfig(layer=5, steps=25, weight_decay=1e-3)),
        (
            LLAMA_2,
            "memit",
            MemitConfig(layers=RISING[2], steps=25, clamp=4, weight_decay=1e-3, second_moment_weight=15_000),
        ),
        (LLAMA_3, "rome", RomeConfig(layer=5, steps=25, weight_decay=1e-3)),
        (LLAMA_3, "memit", MemitConfig(layers=RISING[2], steps=25, learning_rate=0.1, second_moment_weight=15_000)),
        (GPT2_XL, "emmet", EmmetConfig(layers=(17,), second_moment_weight=1_000, relaxation=0.1)),
        (GPT_J, "emmet", EmmetConfig(layers=(5,), second_moment_weight=1)),
        (
            LLAMA_2,
            "emmet",
            EmmetConfig(layers=(5,), steps=25, clamp=4, weight_decay=1e-3, second_moment_weight=1),
        ),
        (GPT2_XL, "alphaedit", AlphaEditConfig(layers=RISING[13], threshold=0.02, l2=10, relative=False)),
        (GPT_J, "alphaedit", AlphaEditConfig(layers=RISING[3], steps=25)),
        (LLAMA_3, "alphaedit", AlphaEditConfig(layers=RISING[2], steps=25, learning_rate=0.1)),
    ],
)
def test_published_settings(model, method, expected):
    found = default_config(model, method)
    assert found == expected
    assert found.origin.startswith("published for ")


def test_every_setting_that_was_published():
    """Spelled out once more: name, layers and d_mlp of the model; ROME, MEMIT, PMET and FT-L."""
    rome = RomeConfig(layer=5, steps=25, weight_decay=1e-3)
    memit = MemitConfig(layers=RISING[2], steps=25, clamp=4, weight_decay=1e-3, second_moment_weight=15_000)
    low_rate = MemitConfig(layers=RISING[2], steps=25, learning_rate=0.1, second_moment_weight=15_000)
    pmet = PmetConfig(
        layers=RISING[2], steps=20, learning_rate=0.5, clamp=1, kl_weight=0.0625, second_moment_weight=15_000
    )
    published = {
        "gpt2-xl": (48, 6400, RomeConfig(layer=17), MemitConfig(layers=RISING[13]), None, FtConfig(layer=0)),
        "gpt-j-6b": (
            28, 16_384, RomeConfig(layer=5), MemitConfig(layers=RISING[3], steps=25, second_moment_weight=15_000),
            PmetConfig(layers=RISING[3]), FtConfig(layer=0, limit=5e-5),
        ),
        "Llama-2-7b-hf": (32, 11_008, rome, memit, pmet, None),
        "Meta-Llama-3-8B": (32, 14_336, rome, low_rate, None, None),
        "Llama-3.1-8B-Instruct": (32, 14_336, rome, low_rate, None, None),
        "Llama-3.2-3B": (28, 8192, rome, memit, None, None),
        "Mistral-7B-v0.1": (32, 14_336, rome, memit, None, None),
        "Qwen2.5-7B": (28, 18_944, rome, memit, None, None),
    }  # fmt: skip
    for name, (n_layers, d_mlp, *settings) in published.items():
        model = of(f"someone/{name}", n_layers, d_mlp)
        for method, expected in zip(("rome", "memit", "pmet", "ft-l"), settings, strict=True):
            found = default_config(model, method)
            assert found.origin.startswith("published for ") == (expected is not None), (name, method)
            assert found == expected or expected is None, (name, method)
        for other in (of(name, n_layers - 1, d_mlp), of(name, n_layers, d_mlp + 1)):
            assert default_config(other, "rome").origin == "rule"  # a model of another size, whatever its name


@pytest.mark.parametrize(
    ("model", "method", "expected"),
    [
        (GPT2_XL, "pmet", PmetConfig(layers=RISING[13], second_moment_weight=20_000)),
        (LLAMA_2, "ft-l", FtConfig(layer=5)),
        (LLAMA_3, "pmet", PmetConfig(layers=RISING[2], second_moment_weight=15_000)),
    ],
)
def test_what_was_not_published_for_a_known_model(model, method, expected):
    """It takes the layers and the weight of what was, and says that it is a guess."""
    found = default_config(model, method)
    assert found == expected
    assert found.origin == "rule"


@pytest.mark.parametrize(
    ("names", "like"),
    [
        (("openai-community/gpt2-xl", "models/gpt2-xl/"), GPT2_XL),
        (("EleutherAI/gpt-j-6B", "gpt-j-6B"), GPT_J),
        (("Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b", "meta-llama/Llama-2-7b-chat"), LLAMA_2),
        (
            (
                "meta-llama/Llama-3.1-8B-Instruct",
                "meta-llama/Meta-Llama-3.1-8B",
                "Meta-Llama-3-8B-Instruct",
                "Llama-3-8B",
            ),
            LLAMA_3,
        ),
    ],
)
def test_a_tuned_or_stored_model_takes_the_settings_of_its_own(names, like):
    for name in names:
        model = of(name, like.cfg.n_layers, like.cfg.d_mlp, like.cfg.gated_mlp)
        for method in EDITORS:
            assert default_config(model, method) == default_config(like, method), (name, method)


@pytest.mark.parametrize(
    "name", ["gpt2-xl-distilled", "not-gpt2-xl", "gpt2", "Llama-2-13b-hf", "Llama-3.1-70B-Instruct", "my-Llama-2-7b-hf"]
)
def test_other_names_are_not_taken_for_known_ones(name):
    for like in (GPT2_XL, LLAMA_2, LLAMA_3):
        found = default_config(of(name, like.cfg.n_layers, like.cfg.d_mlp, like.cfg.gated_mlp), "rome")
        assert found.origin == "rule"


def test_a_known_name_of_another_size_is_not_the_known_model():
    assert default_config(of("gpt2-xl", 12, 3072), "memit").layers == (0, 1, 2, 3, 4)
    assert default_config(of("gpt2-xl", 12, 3072), "memit").origin == "rule"


def test_where_settings_come_from_does_not_count_when_they_are_compared():
    found = default_config(GPT2_XL, "rome")
    assert (found.origin, RomeConfig(layer=17).origin) == ("published for gpt2-xl", "given")
    assert found == RomeConfig(layer=17)
    assert default_config(GPT2_XL, "rome", layer=3).origin == "published for gpt2-xl; layer given"


@pytest.mark.parametrize("method", ["rome", "memit", "pmet", "ft-l"])
def test_a_layer_before_the_first(method):
    with pytest.raises(OptionError, match=r"^layer must be a whole number from 0, got -1$"):
        default_config(GPT2_XL, method, layer=-1)
    assert default_config(GPT2_XL, method, layer=0).edited_layers == (0,)


def test_knowledge_neurons_take_no_layer():
    with pytest.raises(OptionError, match="kn takes no layer, got 5"):
        default_config(GPT2_XL, "kn", layer=5)


def test_numbers_of_numpy_and_any_sequence_of_layers():
    found = MemitConfig(layers=range(1, 4), steps=np.int64(7), clamp=np.float32(0.5))
    assert found == MemitConfig(layers=(1, 2, 3), steps=7, clamp=0.5)
    assert MemitConfig(layers=np.array([1, 2])).layers == MemitConfig(layers=[1, 2]).layers == (1, 2)
    assert (type(found.steps), type(found.clamp), type(found.layers[0])) == (int, float, int)
    assert RomeConfig(layer=np.int32(2)).layer == 2


@pytest.mark.parametrize(
    ("model", "at", "first"),
    [
        (of("gpt2", 12, 3072), 4, 0),  # 12 * 17 / 48 = 4.25
        (of("gpt2-medium", 24, 4096), 9, 5),  # 8.5, rounded up
        (of("gpt2-large", 36, 5120), 13, 9),
        (of("smollm2-135m", 30, 1536, True), 5, 1),  # 30 * 5 / 32 = 4.7
        (of("meta-llama/Llama-3.2-1B", 16, 8192, True), 3, 0),
        (of("one", 1, 8), 0, 0),
        (of("one-gated", 1, 8, True), 0, 0),
    ],
)
def test_the_rule_for_other_models(model, at, first):
    layers, weight = tuple(range(first, at + 1)), 3 * model.cfg.d_mlp
    assert default_config(model, "rome") == RomeConfig(layer=at)
    assert default_config(model, "memit") == MemitConfig(layers=layers, second_moment_weight=weight)
    assert default_config(model, "pmet") == PmetConfig(layers=layers, second_moment_weight=weight)
    assert default_config(model, "ft-l") == FtConfig(layer=at)
    for method in EDITORS:
        check_config(model, method, default_config(model, method))


def test_another_layer():
    model = of("gpt2-xl", 48, 6400)
    assert default_config(model, "rome", layer=30) == RomeConfig(layer=30)
    assert default_config(model, "memit", layer=30).layers == (26, 27, 28, 29, 30)
    assert default_config(model, "pmet", layer=2).layers == (0, 1, 2)
    assert default_config(model, "memit", layer=30).second_moment_weight == 20_000
    assert default_config(model, "ft-l", layer=0) == FtConfig(layer=0)


def test_the_papers_numbers():
    rome, memit, pmet = RomeConfig(layer=17), MemitConfig(layers=(3,)), PmetConfig(layers=(3,))
    shared = ("steps", "learning_rate", "weight_decay", "clamp", "kl_weight", "stop_loss")
    assert [getattr(rome, name) for name in shared] == [20, 0.5, 0.5, 4, 0.0625, 0.05]
    assert [getattr(memit, name) for name in shared] == [20, 0.5, 0.5, 0.75, 0.0625, 0.05]
    assert [getattr(pmet, name) for name in shared] == [30, 0.2, 0.5, 0.75, 1, 0.05]
    assert FtConfig(layer=0).limit == FtConfig(layer=0).learning_rate == 5e-4
    kn = KnConfig()
    assert (kn.threshold, kn.share, kn.remove, kn.insert) == (0.2, 0.7, 1, 8)
    assert (kn.attribution_steps, kn.scale, kn.max_neurons) == (8, 1, 20)


def test_layers_of_a_config():
    assert RomeConfig(layer=3).edited_layers == FtConfig(layer=3).edited_layers == (3,)
    assert MemitConfig(layers=(1, 3)).edited_layers == PmetConfig(layers=(1, 3)).edited_layers == (1, 3)
    assert KnConfig().edited_layers == ()


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (TargetConfig, {"steps": 0}, "steps must be a positive whole number, got 0"),
        (TargetConfig, {"steps": True}, "steps must be a positive"),
        (TargetConfig, {"learning_rate": 0}, "learning_rate must be a number from 1e-09 to 1000, got 0"),
        (TargetConfig, {"learning_rate": float("nan")}, "learning_rate must be a number .*, got nan"),
        (TargetConfig, {"weight_decay": -0.1}, "weight_decay must be a number from 0 to 1e[+]06"),
        (TargetConfig, {"clamp": 0}, "clamp must be a number from 1e-09"),
        (TargetConfig, {"kl_weight": True}, "kl_weight must be a number from 0 to 1e[+]06, got True"),
        (TargetConfig, {"stop_loss": "0"}, "stop_loss must be a number from 0 to 1e[+]06, got '0'"),
        (RomeConfig, {"layer": -1}, "layer must be a whole number from 0, got -1"),
        (RomeConfig, {"layer": 1.0}, "layer must be a whole number"),
        (RomeConfig, {"layer": 1, "steps": 0}, "steps must be"),
        (MemitConfig, {"layers": ()}, r"layers must be rising whole numbers from 0, at least one, got \(\)"),
        (MemitConfig, {"layers": 3}, "layers must be a sequence of whole numbers, got 3"),
        (MemitConfig, {"layers": (2, 1)}, "rising whole numbers"),
        (MemitConfig, {"layers": (1, 1)}, "rising whole numbers"),
        (MemitConfig, {"layers": (True, 2)}, r"layers\[0\] must be a whole number"),
        (MemitConfig, {"layers": (1,), "second_moment_weight": 0}, "second_moment_weight must be a number"),
        (MemitConfig, {"layers": (1,), "clamp": -1}, "clamp must be"),
        (PmetConfig, {"layers": (-1, 1)}, r"layers\[0\] must be a whole number"),
        (PmetConfig, {"layers": (1,), "second_moment_weight": 0}, "second_moment_weight must be a number"),
        (PmetConfig, {"layers": (1,), "steps": 0}, "steps must be"),
        (FtConfig, {"layer": -1}, "layer must be a whole number"),
        (FtConfig, {"layer": 1, "steps": 0}, "steps must be"),
        (FtConfig, {"layer": 1, "learning_rate": 0}, "learning_rate must be a number from 1e-12 to 1000"),
        (FtConfig, {"layer": 1, "limit": 0}, "limit must be a number from 1e-12 to 1000, got 0"),
        (FtConfig, {"layer": 1, "stop_loss": -1}, "stop_loss must be"),
        (KnConfig, {"threshold": 0}, "threshold must be a number from 1e-09 to 1, got 0"),
        (KnConfig, {"share": 1.1}, "share must be a number from 1e-09 to 1"),
        (KnConfig, {"attribution_steps": 0}, "attribution_steps must be a positive"),
        (KnConfig, {"scale": float("inf")}, "scale must be a number from -1000 to 1000, got inf"),
        (KnConfig, {"remove": -1}, "remove must be a number from 0"),
        (KnConfig, {"insert": -1}, "insert must be a number from 0"),
        (KnConfig, {"max_neurons": 0}, "max_neurons must be a positive"),
    ],
)
def test_bad_settings(make, settings, message):
    with pytest.raises(OptionError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("rom", RomeConfig(layer=0), "method must be one of .* did you mean 'rome'"),
        ("memit", RomeConfig(layer=0), "memit takes a MemitConfig, got a RomeConfig"),
        ("rome", MemitConfig(layers=(0,)), "rome takes a RomeConfig, got a MemitConfig"),
        ("pmet", MemitConfig(layers=(0,)), "pmet takes a PmetConfig, got a MemitConfig"),
        ("kn", FtConfig(layer=0), "kn takes a KnConfig, got a FtConfig"),
        ("rome", RomeConfig(layer=12), "layer 12 does not exist: small has layers 0 to 11"),
        ("memit", MemitConfig(layers=(11, 12)), "layer 12 does not exist"),
        ("ft-l", FtConfig(layer=99), "layer 99 does not exist"),
    ],
)
def test_configs_that_do_not_fit(method, config, message):
    with pytest.raises(OptionError, match=message):
        check_config(of("small", 12, 64), method, config)


def test_the_last_layer_exists():
    check_config(of("small", 12, 64), "rome", RomeConfig(layer=11))


def test_a_method_that_does_not_exist():
    with pytest.raises(OptionError, match="did you mean 'memit'"):
        default_config(of("small", 12, 64), "memmit")


@pytest.mark.parametrize("name", ["gpt2-xl", "gpt-j-6b", "llama-2-7b", "llama-3-8b", "llama-3.2-3b", "mistral-7b-v0.1"])
def test_where_a_known_model_is_edited_is_where_rome_and_memit_were_published_for_it(name):
    n_layers, d_mlp, _ = published._KNOWN[name]
    model = of(name, n_layers, d_mlp, not name.startswith("gpt"))
    where = published.places(model)
    assert where.known == name
    assert where.layer == default_config(model, "rome").layer
    assert where.layers == default_config(model, "memit").layers
    assert where.second_moment_weight == default_config(model, "memit").second_moment_weight
