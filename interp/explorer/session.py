"""What an explorer knows and can do, without a page: a fact, its runs and maps, an edit that can be taken back.

Every number comes from a public function of the package, called on a private view of the model
(:mod:`interp.explorer.view`): the model itself is never touched. Each state of the weights (before and after an edit)
has its own maps, so that those of the unedited model are there again after an undo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from transformer_lens import HookedTransformer

from interp.editing.defaults import check_config, default_config
from interp.editing.editor import edit
from interp.editing.methods import DEFAULT_EDITOR, editor_named
from interp.editing.moments import second_moments
from interp.engine.cells import Cell
from interp.engine.corruption import noise_level
from interp.engine.pairs import RunPair, check_current, clean_and_corrupted, prompt_pair
from interp.errors import OptionError
from interp.evaluation.protocol import CaseEvaluation, evaluate
from interp.explorer.view import EditedLayers, private_view
from interp.facts.case_files import case_around
from interp.facts.fact_files import load_facts
from interp.facts.records import EditRequest, Fact, spaced_answer
from interp.locate.activation_patching import PatchedRun, Readout, patched_run, read_out
from interp.locate.method import LocateTask
from interp.locate.methods import LOCATORS, locator_named
from interp.models.tokens import tokenize
from interp.options import Progress, check_positive, check_seed
from interp.patches.patch import Patch
from interp.results.record import Provenance, provenance

__all__ = ["Controls", "Session", "map_names"]

StepProgress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all); may raise to stop the work."""

_SETTINGS = {"deviations": "noise"}  # what a slider sets, where a locator calls it otherwise
BATCH_TOKENS = {"cpu": 512}
MOST = {"samples": 1000, "steps": 1000}
"""One waits for each click: more than this is a study's work."""
DEFAULT_PROMPT = ("The {} is located in the city of", "Eiffel Tower")


def map_names() -> tuple[str, ...]:
    """The maps, in the order in which they are computed: what is there first comes first."""
    return tuple(sorted(LOCATORS, key=lambda name: locator_named(name).turn))


@dataclass(frozen=True, kw_only=True)
class Controls:
    """What the sliders set.

    Args:
        deviations: Noise, in standard deviations of the subjects' embeddings.
        samples: Noise draws.
        window: Blocks whose MLP or attention outputs are restored together.
        seed: Of the noise.
        steps: Quadrature nodes of the attribution scores.
    """

    deviations: float = 3.0
    samples: int = 10
    window: int = 10
    seed: int = 1
    steps: int = 20

    def __post_init__(self) -> None:
        check_positive(samples=self.samples, window=self.window, steps=self.steps)
        check_seed(self.seed)
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise OptionError(f"{name} must be at most {most} in the explorer, got {getattr(self, name)!r}")
        if not isinstance(self.deviations, int | float) or not 0 < self.deviations <= 100:
            raise OptionError(f"deviations must lie in (0, 100], got {self.deviations!r}")


@dataclass
class _Weights:
    """What was found with the weights in one state."""

    provenance: Provenance | None = None
    maps: dict[str, Any] = field(default_factory=dict)
    pair: RunPair | None = None
    other_pair: RunPair | None = None


class Session:
    """One model explored (see the module).

    Args:
        model: Any HookedTransformer that :func:`interp.load_model` gives; it is never changed.
        fact: What to start with; the Eiffel Tower if None.
        controls: What the sliders are set to.
        max_batch_tokens: The most tokens that a block runs on at once. By default few on a CPU, so that a click need
            not wait long for the map that is being computed.
    """

    def __init__(
        self,
        model: HookedTransformer,
        fact: Fact | None = None,
        *,
        controls: Controls | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        self.model = private_view(model)
        self.check: Callable[[], None] = lambda: None
        """Called at the start of each pass up the network; may raise to stop the work."""
        self.model.embed.register_forward_pre_hook(lambda *_: self.check())
        self.facts = load_facts("builtin")
        self.controls = controls or Controls()
        self.max_batch_tokens = max_batch_tokens or BATCH_TOKENS.get(self.model.W_E.device.type, 4096)
        self._deviation = noise_level(self.model, self.facts, deviations=1.0)
        self.other: Fact | None = None
        self.patch: Patch | None = None
        self.evaluation: CaseEvaluation | None = None
        self._edited: EditedLayers | None = None
        self._states = {False: _Weights(), True: _Weights()}
        self.cells: tuple[Cell, ...] = ()
        template, subject = DEFAULT_PROMPT
        self.choose(fact or Fact(template=template, subject=subject))

    @property
    def maps(self) -> dict[str, Any]:
        """What was located with the weights as they are."""
        return self._now.maps

    @property
    def asked(self) -> Fact:
        """The fact as it is traced and attributed: after its own edit, with the new answer."""
        if self.patch is not None and self.patch.requests[0].fact == self.fact:
            return replace(self.fact, target=self.patch.requests[0].new_target)
        return self.fact

    @property
    def is_edited(self) -> bool:
        """Whether an edit is on the view."""
        return self._edited is not None

    def choose(self, fact: Fact) -> None:
        """Explore another fact; an edit that is on the view stays.

        Raises:
            FactError: If it does not fit the model; nothing changes then.
        """
        tokenize(self.model, fact)
        self.fact, self.cells, self.other = fact, (), None
        self._states = {key: _Weights(provenance=state.provenance) for key, state in self._states.items()}

    def set_controls(self, **changes: float) -> None:
        """Move sliders; maps that depend on them are dropped.

        Raises:
            OptionError: If a value is not allowed; nothing changes then.
        """
        unknown = sorted(set(changes) - {each.name for each in fields(Controls)})
        if unknown:
            raise OptionError(
                f"there is no control {unknown[0]!r}: {', '.join(each.name for each in fields(Controls))}"
            )
        before, self.controls = self.controls, replace(self.controls, **changes)  # type: ignore[arg-type]
        noise = ("deviations", "samples", "seed")
        traces = any(getattr(before, name) != getattr(self.controls, name) for name in noise)
        changed = {_SETTINGS.get(each.name, each.name) for each in fields(Controls)
                   if getattr(before, each.name) != getattr(self.controls, each.name)}  # fmt: skip
        stale = {method for method in map_names() if locator_named(method).depends & changed}
        for state in self._states.values():
            state.maps = {method: found for method, found in state.maps.items() if method not in stale}
            if traces:
                state.pair = None

    def set_other(self, other: Fact | None) -> None:
        """Take states from another prompt's run; None: from the clean run.

        Raises:
            FactError: If it does not fit the model; nothing changes then.
        """
        if other is not None:
            tokenize(self.model, other)
        self.other = other
        for state in self._states.values():
            state.other_pair = None

    def pair(self) -> RunPair:
        """The clean and the corrupted run of the fact; computed when the weights or the noise changed."""
        now = self._now
        if now.pair is not None:
            if _is_current(now.pair):
                return now.pair
            # something else wrote to the weights that the view shares with the model
            found = provenance(self.model)
            if found != now.provenance:
                now.maps, now.provenance = {}, found
        now.pair = clean_and_corrupted(
            self.model,
            self.asked,
            samples=self.controls.samples,
            noise=self.noise,
            seed=self.controls.seed,
        )
        return now.pair

    @property
    def provenance(self) -> Provenance:
        """Of the weights as they are."""
        if self._now.provenance is None:
            self._now.provenance = provenance(self.model)
        return self._now.provenance

    @property
    def noise(self) -> float:
        """Standard deviation of the noise."""
        return self.controls.deviations * self._deviation

    def source_pair(self) -> RunPair:
        """The runs that states are moved between: clean to corrupted, or another prompt's to this prompt's."""
        if self.other is None:
            return self.pair()
        now = self._now
        if now.other_pair is None or not _is_current(now.other_pair):
            now.other_pair = prompt_pair(self.model, self.asked, self.other)
        return now.other_pair

    def readouts(self) -> tuple[Readout, Readout]:
        """What the source and the base run answer, before any state is moved."""
        pair = self.source_pair()
        return read_out(pair, pair.source_logits[None]), read_out(pair, pair.base_logits)

    def patched(self, cells: Sequence[Cell]) -> PatchedRun:
        """Put states of the source run into the base runs; the cells are kept as the chosen ones.

        Raises:
            OptionError: If a cell does not exist or has no counterpart.
        """
        pair = self.source_pair()  # of the weights as they are: to check them twice would double the wait
        found = patched_run(pair, cells, 10, self.provenance)
        self.cells = tuple(cells)
        return found

    def locate(
        self,
        method: str,
        *,
        progress: Progress | None = None,
        so_far: Callable[[Any], None] | None = None,
    ) -> Any:
        """Compute one locator's result, which has a ``map()``, and keep it.

        Raises:
            OptionError: If the locator does not exist.
        """
        locator = locator_named(method)
        self.pair()  # drops what belongs to other weights
        found = locator.run(
            LocateTask(
                model=self.model,
                fact=self.asked,
                noise=self.noise,
                samples=self.controls.samples,
                window=self.controls.window,
                seed=self.controls.seed,
                steps=self.controls.steps,
                max_batch_tokens=self.max_batch_tokens,
                model_provenance=self.provenance,
                progress=progress,
                partial=so_far,
            )
        )
        self.maps[method] = found
        return found

    def edit(
        self, new_target: str, *, method: str = DEFAULT_EDITOR, layer: int, progress: StepProgress | None = None
    ) -> CaseEvaluation:
        """Edit the view at a layer (editors of several: at those that end there) and ask before and after.

        The new target is taken as one types it: the space that its language puts before it is added. An edit that is
        on the view is taken back first.

        Raises:
            OptionError: If the method or the layer does not exist.
            FactError: If the new target is empty, or the answer already.
            NumericalError: If a loss is not finite or a second moment is singular.
        """
        request = EditRequest(self.fact, new_target=spaced_answer(self.fact.prompt, new_target))
        config = default_config(self.model, method, layer)
        check_config(self.model, method, config)
        self.undo()
        report, editor = progress or (lambda *_: None), editor_named(method)
        moments = None
        if editor.sites:
            estimating = partial(report, "estimating second moments, once per layer")
            moments = second_moments(self.model, config.edited_layers, progress=estimating)
        patch = edit(
            self.model,
            [request],
            method=method,
            config=config,
            second_moments=moments,
            model_provenance=self.provenance,
            progress=partial(report, f"editing with {editor.title}"),
        )
        report("asking before and after", 0, 1)
        case = case_around(request, self.facts)
        found = evaluate(self.model, patch, case, fluency_tokens=0, model_provenance=self.provenance)
        self._edited = EditedLayers(self.model, patch)
        self._states[True] = _Weights()
        self.patch, self.evaluation = patch, found
        return found

    def undo(self) -> None:
        """Take the edit back; the view's weights are the model's again, bit for bit."""
        if self._edited is not None:
            self._edited.undo()
            self._edited = self.patch = self.evaluation = None

    @property
    def _now(self) -> _Weights:
        return self._states[self.is_edited]


def _is_current(pair: RunPair) -> bool:
    try:
        check_current(pair)
    except OptionError:
        return False
    return True
