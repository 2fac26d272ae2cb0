"""Where a model was measured to be best edited: the file that ``interp where`` writes, and what editors take from it.

The file is JSON with a hash of its content; it says of which weights it is, and is used for no others. Files of models
on which it was run are in the package (``interp/editing/where``) and are found by the weights' hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import cattrs
from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig, window
from interp.editing.unedited import unedited_provenance
from interp.errors import DataError, InterpError, OptionError
from interp.options import check_layers, whole_number
from interp.results.record import Provenance, check_same_weights, content_hash
from interp.results.shown import Shown
from interp.statistics.estimates import Interval
from interp.system.files import reason, write_atomically

__all__ = ["LayerScore", "LocatorPeak", "WhereToEdit", "at_measured", "measured_for", "shipped"]

KIND, FORMAT = "interp where", 1
SHIPPED = Path(__file__).parent / "where"
LARGEST = 2**22
"""Bytes of a file: far more than any model's layers take."""
TOLD = 0.05
"""The probability that one layer or more is told to be worse though none is."""

Config = TypeVar("Config", bound=EditConfig)


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """What editing at one layer did.

    Args:
        layer: The last layer that is edited.
        layers: All of them.
        score: In percent, over the cases by which the layer is chosen, with its 95% interval.
        difference: Of the chosen layer's score and this one's, in percentage points, over the cases that were edited
            at both; its interval is that of this difference alone, not corrected for having been chosen. None for the
            chosen layer.
        p: That the layer is not worse than the best, corrected for all layers and for looking twice
            (:mod:`interp.statistics.best`).
    """

    layer: int
    layers: tuple[int, ...]
    score: Interval
    difference: Interval | None
    p: float

    @property
    def told(self) -> bool:
        """Whether it is told to be worse than the best."""
        return self.p <= TOLD


@dataclass(frozen=True, kw_only=True)
class LocatorPeak:
    """Where a locator points.

    Args:
        locator: Its name.
        title: As tables write it.
        layer: Of the largest mean at the last subject token; None where it has no value there.
        low, high: The span of the layers that cannot be told from it; None of fewer than 5 facts.
        n_facts: Over how many facts.
        edited: The last layer that the editor edits when it goes by the locator.
    """

    locator: str
    title: str
    layer: int | None
    low: int | None
    high: int | None
    n_facts: int
    edited: int | None


@dataclass(frozen=True, kw_only=True, repr=False)
class WhereToEdit(Shown):
    """Where a model is best edited, as far as a budget went.

    Args:
        provenance: Of which weights.
        n_layers: Of the model.
        editor: By which editor the layers were compared.
        layer, layers: The chosen one: the last layer that is edited, and all of them.
        held_out: The chosen layer's score over cases that had no part in the choice; None where there were too few
            cases to hold any out.
        n_asked, n_took: How many cases these are (those of the choice if none were held out), and in how many of them
            the edited model gives the new answer.
        by_layer: Every layer that was measured, rising.
        peaks: Where the locators point.
        budget: What it was to take, by name and in numbers.
        facts, cases: Where they come from: the source, and a hash of what was read.
        left_out: How many units were left out; the run folder says why.
    """

    provenance: Provenance
    n_layers: int
    editor: str
    layer: int
    layers: tuple[int, ...]
    held_out: Interval | None
    n_asked: int
    n_took: int
    by_layer: tuple[LayerScore, ...]
    peaks: tuple[LocatorPeak, ...]
    budget: dict[str, str | int | None]
    facts: tuple[str, str]
    cases: tuple[str, str]
    left_out: int

    def __post_init__(self) -> None:
        whole_number("n_layers", self.n_layers)
        check_layers("by_layer", [each.layer for each in self.by_layer], self.n_layers)
        for last, layers in ((self.layer, self.layers), *((each.layer, each.layers) for each in self.by_layer)):
            check_layers("layers", layers, self.n_layers)
            if layers[-1] != last:
                raise OptionError(f"layer {last} is not the last of {list(layers)}")
        for each in self.by_layer:
            if not 0 <= each.p <= 1:
                raise OptionError(f"layer {each.layer}: p must lie from 0 to 1, got {each.p}")
        if self.layer not in {each.layer for each in self.by_layer} or self.at(self.layer).told:
            raise OptionError(f"layer {self.layer} was chosen; expected one that was measured and not told to be worse")
        for peak in self.peaks:
            for layer in (peak.layer, peak.low, peak.high, peak.edited):
                if layer is not None:
                    check_layers(peak.locator, [layer], self.n_layers)

    def at(self, layer: int) -> LayerScore:
        """What editing at a measured layer did."""
        return next(each for each in self.by_layer if each.layer == layer)

    @property
    def not_told(self) -> tuple[int, ...]:
        """The other measured layers that are not told to be worse than the best."""
        return tuple(each.layer for each in self.by_layer if not each.told and each.layer != self.layer)

    @property
    def worse_from(self) -> int | None:
        """The first layer from which on every measured one is told to be worse; None if the last one is not."""
        first = None
        for each in reversed(self.by_layer):
            if not each.told:
                break
            first = each.layer
        return first

    def save(self, path: str | Path) -> None:
        """Write the file; equal results give equal bytes.

        Raises:
            DataError: If it cannot be written.
        """
        plain = _plain({"kind": KIND, "format": FORMAT, **asdict(self)})
        text = json.dumps({"content_hash": content_hash({}, plain), **plain}, indent=1, ensure_ascii=False)
        write_atomically(Path(path), f"{text}\n".encode())

    @classmethod
    def load(cls, path: str | Path) -> WhereToEdit:
        """Read a file back.

        Raises:
            DataError: If it is missing, damaged (names the hash expected and found), no such file, or of another
                format; naming what is wrong.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
            stored = json.loads(data) if len(data) <= LARGEST else None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path} cannot be read: {reason(error)}") from error
        if not isinstance(stored, dict) or stored.get("kind") != KIND or stored.get("format") != FORMAT:
            raise DataError(f"{path} is no file of interp where in format {FORMAT}")
        there = stored.pop("content_hash", None)
        try:
            found = content_hash({}, stored)
            if there != found:
                raise DataError(f"{path} is damaged: it was written with content hash {there}, its content has {found}")
            fields = {name: value for name, value in stored.items() if name not in ("kind", "format")}
            return _converter.structure(fields, cls)
        except DataError:
            raise
        except (
            InterpError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise DataError(f"{path}: its fields are not those of interp where: {error!r:.300}") from error
        except cattrs.BaseValidationError as error:
            said = "; ".join(cattrs.transform_error(error))
            raise DataError(f"{path}: its fields are not those of interp where: {said[:300]}") from error


def shipped() -> Iterator[WhereToEdit]:
    """The files in the package, in the order of their names.

    Raises:
        DataError: If one is damaged.
    """
    for path in sorted(SHIPPED.glob("*.json")):
        yield WhereToEdit.load(path)


def measured_for(model: HookedTransformer) -> WhereToEdit | None:
    """What is shipped for a model with these weights; the weights are hashed only where one of its depth is.

    Raises:
        DataError: If a shipped file is damaged.
    """
    possible = [each for each in shipped() if each.n_layers == model.cfg.n_layers]
    if not possible:
        return None
    described = unedited_provenance(model)
    wanted = described.weights_hash, described.dtype
    return next((each for each in possible if (each.provenance.weights_hash, each.provenance.dtype) == wanted), None)


def at_measured(
    model: HookedTransformer, method: str, config: Config, where: str | Path | WhereToEdit, *, checked: bool = False
) -> Config:
    """An editor's settings at the layers that were measured to be best.

    An editor of another width than the one that was measured edits as many layers as it does, up to the same last
    one; near the bottom the first ones, as in a study.

    Args:
        model: The model.
        method: The editor's name, for errors.
        config: Its settings.
        where: The file, or what it holds.
        checked: Whether the weights are known to be the same.

    Raises:
        OptionError: If the editor chooses its layers.
        DataError: If the file is damaged.
        ModelError: If it was measured on other weights (names both hashes).
    """
    width = type(config).width
    if not width:
        raise OptionError(f"where would do nothing: {method} chooses its layers")
    found = where if isinstance(where, WhereToEdit) else WhereToEdit.load(where)
    if not checked:
        named = "what was measured" if isinstance(where, WhereToEdit) else f"the layers in {where}"
        check_same_weights(named, found.provenance, unedited_provenance(model))
    layers = found.layers if len(found.layers) == width else window(found.layer - width + 1, width, found.n_layers)
    score = found.at(found.layer).score
    return config.at(layers).from_(f"measured with {found.editor} on {score.n} cases")


def _plain(value: Any) -> Any:
    """As JSON has it: lists, and null for a number that there is not."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: Any, _: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite number or null, got {value!r:.80}")
    return float(value)


def _whole(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {value!r:.80}")
    return value


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r:.80}")
    return value


def _setting(value: Any, _: Any) -> str | int | None:
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError(f"expected a text, a whole number or null, got {value!r:.80}")


_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_structure_hook(float, _number)
_converter.register_structure_hook(int, _whole)
_converter.register_structure_hook(str, _text)
_converter.register_structure_hook(str | int | None, _setting)
