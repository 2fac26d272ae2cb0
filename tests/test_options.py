"""Options: numpy's numbers are numbers, what is none is refused by name, and more than can help is refused with why."""

from dataclasses import dataclass

import numpy as np
import pytest

from interp.errors import OptionError
from interp.options import (
    MOST,
    check_choice,
    check_flag,
    check_layers,
    check_noise,
    check_positive,
    check_seed,
    python_numbers,
    real_number,
    whole_number,
    whole_numbers,
)


@pytest.mark.parametrize("kind", [int, np.int8, np.int64, np.uint16])
def test_whole_numbers_of_any_kind_become_pythons(kind):
    found = whole_number("steps", kind(7))
    assert (found, type(found)) == (7, int)
    assert type(check_seed(kind(7))) is int
    assert whole_numbers("layers", [kind(2), kind(1)]) == (2, 1)
    check_positive(samples=kind(7), window=kind(1))


@pytest.mark.parametrize("kind", [float, np.float16, np.float32, np.float64])
def test_real_numbers_of_any_kind_become_pythons(kind):
    found = real_number("clamp", kind(0.75), 0, 1)
    assert (found, type(found)) == (0.75, float)
    assert type(check_noise(kind(0.75))) is float
    assert type(real_number("clamp", np.int64(1), 0, 1)) is int


@pytest.mark.parametrize("bad", [True, np.bool_(True), 2.0, np.float32(2), "2", None, 0, -1, [2], np.array([2, 3]), 1j])
def test_what_is_no_positive_whole_number_is_refused(bad):
    with pytest.raises(OptionError, match=r"^samples must be a positive whole number, got "):
        check_positive(samples=bad)


@pytest.mark.parametrize("bad", [True, "0.5", None, float("nan"), np.float32("inf"), 2, np.array([0.5, 0.6])])
def test_what_is_no_number_within_bounds_is_refused(bad):
    with pytest.raises(OptionError, match=r"^clamp must be a number from 0 to 1, got "):
        real_number("clamp", bad, 0, 1)
    with pytest.raises(OptionError, match=r"^noise must be a positive number or '3sigma', got "):
        check_noise("2sigma" if isinstance(bad, int) else bad)


@pytest.mark.parametrize("bad", [True, -1, 2**32, 1.0, "1", np.array([1, 2])])
def test_what_is_no_seed_is_refused(bad):
    with pytest.raises(OptionError, match=r"^seed must be a whole number from 0 to 2\*\*32 - 1, got "):
        check_seed(bad)


@pytest.mark.parametrize("name", MOST)
def test_more_than_can_help_is_refused_and_the_error_says_why(name):
    most, why = MOST[name]
    check_positive(**{name: most})
    with pytest.raises(OptionError) as caught:
        check_positive(**{name: np.int64(most + 1)})
    assert str(caught.value) == f"{name} must be at most {most:,} ({why}), got {most + 1:,}"


def test_layers_come_in_any_sequence():
    for layers in ((1, 2), [1, 2], range(1, 3), np.array([1, 2]), {1: 0, 2: 0}.keys()):
        found = check_layers("layers", layers, 3)
        assert found == (1, 2)
        assert [type(layer) for layer in found] == [int, int]
    for bad, said in (
        ("12", "must be a sequence of whole numbers, got '12'"),
        (3, "must be a sequence of whole numbers, got 3"),
        (np.array(3), "must be a sequence of whole numbers, got array"),
        (None, "must be a sequence of whole numbers, got None"),
        ([1, 2.5], r"layers\[1\] must be a whole number from 0, got 2.5"),
        ([True], r"layers\[0\] must be a whole number from 0, got True"),
        ([-1, 0], r"layers\[0\] must be a whole number from 0, got -1"),
        ((), "must be rising whole numbers from 0, at least one"),
        ([2, 1], r"must be rising whole numbers from 0, at least one, got \[2, 1\]"),
        ([1, 1], "must be rising whole numbers"),
        ([1, 3], "layers: layer 3 does not exist: there are layers 0 to 2"),
    ):
        with pytest.raises(OptionError, match=said):
            check_layers("layers", bad, 3)


def test_a_choice_may_be_asked_of_anything():
    check_choice("state", np.str_("mlp"), ("mlp", None))
    check_choice("state", None, ("mlp", None))
    for bad in (np.array(["mlp", "mlp"]), ["mlp"], {}, "x" * 100_000):
        with pytest.raises(OptionError, match=r"^state must be one of 'mlp', None, got ") as caught:
            check_choice("state", bad, ("mlp", None))
        assert len(str(caught.value)) < 200


def test_settings_hold_pythons_numbers():
    @dataclass(frozen=True)
    class Settings:
        steps: int
        rate: float
        both: bool
        name: str

        def __post_init__(self):
            python_numbers(self)

    found = Settings(np.int32(3), np.float64(0.5), True, "x")
    assert [type(value) for value in vars(found).values()] == [int, float, bool, str]
    assert repr(found) == repr(Settings(3, 0.5, True, "x"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("value", [1, 0, None, "yes", np.array([True, False]), np.array(True)])
def test_a_flag_is_true_or_false(value):
    with pytest.raises(OptionError, match=r"^replace must be True or False, got"):
        check_flag("replace", value)
    assert check_flag("replace", np.bool_(True)) is True
    assert check_flag("replace", False) is False
