"""Settings of the editors: the published ones, the rule for other models, and what is refused."""

from types import SimpleNamespace

import pytest

from interp.editing import FtConfig, KnConfig, MemitConfig, PmetConfig, RomeConfig, TargetConfig, default_config
from interp.editing.config import METHODS, check_config, config_layers
from interp.errors import OptionError


def of(name, n_layers, d_mlp, gated=False):
    cfg = SimpleNamespace(model_name=name, n_layers=n_layers, d_mlp=d_mlp, gated_mlp=gated)
    return SimpleNamespace(cfg=cfg)


@pytest.fixture(autouse=True)
def _unchecked(unchecked):
    """A stand-in for a model with the sizes of those that are too large to load."""


@pytest.mark.parametrize(
    ("model", "rome", "spread", "memit", "pmet"),
    [
        (of("gpt2-xl", 48, 6400), 17, (13, 14, 15, 16, 17), 20_000, 20_000),
        (of("openai-community/gpt2-xl", 48, 6400), 17, (13, 14, 15, 16, 17), 20_000, 20_000),
        (of("EleutherAI/gpt-j-6b", 28, 16384), 5, (3, 4, 5, 6, 7, 8), 15_000, 6_000),
        (of("EleutherAI/gpt-j-6B", 28, 16384), 5, (3, 4, 5, 6, 7, 8), 15_000, 6_000),
        (of("meta-llama/Llama-2-7b-hf", 32, 11008, True), 5, (4, 5, 6, 7, 8), 15_000, 15_000),
        (of("meta-llama/Llama-3.1-8B", 32, 14336, True), 5, (4, 5, 6, 7, 8), 15_000, 15_000),
    ],
)
def test_published_settings(model, rome, spread, memit, pmet):
    assert default_config(model, "rome") == default_config(model, "r-rome") == RomeConfig(layer=rome)
    assert default_config(model, "memit") == MemitConfig(layers=spread, second_moment_weight=memit)
    assert default_config(model, "pmet") == PmetConfig(layers=spread, second_moment_weight=pmet)
    assert default_config(model, "ft-l") == FtConfig(layer=rome)
    assert default_config(model, "kn") == KnConfig()


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
    for method in METHODS:
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


def test_layers_of_a_config():
    assert config_layers(RomeConfig(layer=3)) == config_layers(FtConfig(layer=3)) == (3,)
    assert config_layers(MemitConfig(layers=(1, 3))) == config_layers(PmetConfig(layers=(1, 3))) == (1, 3)
    assert config_layers(KnConfig()) == ()


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
        (RomeConfig, {"layer": -1}, r"rising whole numbers from 0, got \(-1,\)"),
        (RomeConfig, {"layer": 1.0}, "rising whole numbers"),
        (RomeConfig, {"layer": 1, "steps": 0}, "steps must be"),
        (MemitConfig, {"layers": ()}, r"layers must be a tuple of rising whole numbers from 0, got \(\)"),
        (MemitConfig, {"layers": [1, 2]}, "layers must be a tuple"),
        (MemitConfig, {"layers": (2, 1)}, "rising whole numbers"),
        (MemitConfig, {"layers": (1, 1)}, "rising whole numbers"),
        (MemitConfig, {"layers": (True, 2)}, "rising whole numbers"),
        (MemitConfig, {"layers": (1,), "second_moment_weight": 0}, "second_moment_weight must be a number"),
        (MemitConfig, {"layers": (1,), "clamp": -1}, "clamp must be"),
        (PmetConfig, {"layers": (-1, 1)}, "rising whole numbers"),
        (PmetConfig, {"layers": (1,), "second_moment_weight": 0}, "second_moment_weight must be a number"),
        (PmetConfig, {"layers": (1,), "steps": 0}, "steps must be"),
        (FtConfig, {"layer": -1}, "rising whole numbers"),
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
