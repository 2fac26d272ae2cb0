"""The explorer as a widget: what the page asks for becomes jobs, what they find becomes the page's state.

The page (``explorer.js``) holds no numbers of its own: it shows the traits below and sends messages
``{"do": ACTION, ...}``. Jobs run on one thread (:mod:`interp.explorer.worker`), so the kernel stays free; a click is
let in between the steps of a map that is being computed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from transformer_lens import HookedTransformer

from interp.editing.methods import DEFAULT_EDITOR, editor_title
from interp.errors import InterpError, OptionError
from interp.evaluation.protocol import CaseEvaluation
from interp.explorer.exports import EXPORTS, exported
from interp.explorer.growing import GrowingMaps
from interp.explorer.page import edit_data, editors_data, fact_data, file_name, map_data, maps_data, runs_data
from interp.explorer.script import SCRIPT, STYLE
from interp.explorer.session import Session, map_names
from interp.explorer.worker import Worker
from interp.facts.records import Fact
from interp.locate.activation_patching import PatchedRun
from interp.locate.methods import locator_named
from interp.patches.patch import Patch
from interp.results.mapped import MapRecord
from interp.results.record import write_atomically
from interp.system.readable import neutral

__all__ = ["Explorer"]

logger = logging.getLogger(__name__)

IDLE = {"busy": False, "doing": "", "fraction": 0.0}


class Explorer(anywidget.AnyWidget):
    """An explorer of one model, made by :func:`interp.explore`.

    The same that the page does can be done from code; calls return at once, :meth:`wait` waits for what they started.
    The model is never changed: edits live on a private view of it (:attr:`model`), and closing the explorer drops it.
    """

    _esm = SCRIPT
    _css = STYLE

    setup = traitlets.Dict().tag(sync=True)
    controls = traitlets.Dict().tag(sync=True)
    fact_shown = traitlets.Dict().tag(sync=True)
    runs = traitlets.Dict().tag(sync=True)
    maps = traitlets.Dict().tag(sync=True)
    rows = traitlets.Dict().tag(sync=True)
    edited = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worker = Worker("interp-explorer")
        session.check = self._worker.check
        self._chosen: list[dict[str, Any]] = []
        self._n_selected = 0
        self._patched: PatchedRun | None = None
        self._views = 0
        self._growing = GrowingMaps()
        super().__init__(
            setup={
                "model": session.model.cfg.model_name,
                "n_layers": session.model.cfg.n_layers,
                "maps": maps_data(),
                "formats": list(EXPORTS),
                "editors": editors_data(session.model),
                "facts": [f"{f.prompt} …{(f.target or '')}" for f in session.facts],
            },
            status=IDLE,
        )
        self.on_msg(self._heard)
        self._show_controls()
        self._show_fact()

    # what one does from code

    @property
    def model(self) -> HookedTransformer:
        """The view that the explorer works on, with its edit if there is one; it shares weights with the model."""
        return self._session.model

    @property
    def fact(self) -> Fact:
        """What is explored."""
        return self._session.fact

    @property
    def located(self) -> dict[str, MapRecord]:
        """The finished results, by locator."""
        return dict(self._session.maps)

    @property
    def patched(self) -> PatchedRun | None:
        """The run with the chosen cells put in."""
        return self._patched

    @property
    def patch(self) -> Patch | None:
        """The edit that is on the view."""
        return self._session.patch

    @property
    def evaluation(self) -> CaseEvaluation | None:
        """What the edit changed."""
        return self._session.evaluation

    def choose(self, fact: Fact) -> None:
        """Explore another fact."""
        self._submit(partial(self._choose, fact), "reading the prompt")

    def run(self, methods: Sequence[str] | None = None) -> None:
        """Compute the maps that are not there yet: those of some locators, or all.

        Raises:
            OptionError: If a locator does not exist.
        """
        methods = map_names() if methods is None else methods
        for method in methods:
            locator_named(method)
        self._submit(partial(self._locate, list(methods)), "locating", gives_way=True)

    def stop(self) -> None:
        """Stop what is being computed."""
        self._worker.stop()

    def click(self, *cells: tuple[str, int, int]) -> None:
        """Put the states of some cells, each (method, token, layer), into the corrupted run; none: take them out."""
        self._select([{"method": method, "token": token, "layer": layer} for method, token, layer in cells])

    def take_states_from(self, other: Fact | None) -> None:
        """Put in states of another prompt's run, or (None) of the clean run."""
        self._submit(partial(self._set_other, other), "running the other prompt", quick=True)

    def set_controls(self, **changes: float) -> None:
        """Move sliders (:class:`interp.explorer.Controls`)."""
        self._submit(partial(self._set_controls, changes), "")

    def edit(self, new_target: str, *, method: str = DEFAULT_EDITOR, layer: int) -> None:
        """Edit the view."""
        self._submit(partial(self._edit, new_target, method, layer), f"editing with {editor_title(method)}")

    def undo(self) -> None:
        """Take the edit back."""
        self._submit(self._undo, "undoing the edit")

    def export(self, path: str | Path) -> Path:
        """Write what is on the screen; the ending says how: ``pdf``, ``svg``, ``png``, ``html``, ``csv``, ``patch``.

        Raises:
            OptionError: If the ending is none of these, or there is nothing to write.
            DataError: If the place cannot be written.
        """
        path = Path(path)
        done: Future[bytes] = Future()

        def job() -> None:  # on the worker's thread, as it may run the model
            try:
                done.set_result(exported(self._session, path.suffix.removeprefix(".")))
            except BaseException as error:
                done.set_exception(error)

        if self._worker.here:
            job()
        else:
            self._begin(job, quick=True, dropped=lambda: done.set_exception(OptionError("the explorer was closed")))
        write_atomically(path, done.result())
        return path

    def wait(self, timeout: float | None = None) -> None:
        """Wait until everything is done.

        Raises:
            OptionError: If that takes longer than ``timeout`` seconds, or if something went wrong on the way (says
                what the page says).
        """
        if not self._worker.wait(timeout):
            raise OptionError(f"the explorer is still {self.status['doing']} after {timeout} s")
        if self.message:
            raise OptionError(self.message)

    def close(self) -> None:
        """End the explorer: work stops, the edit is taken back."""
        self._worker.close()
        self._session.undo()
        super().close()

    # what the page asks for

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        """A message of the page; what is wrong with it is said in a line."""
        try:
            self._act(dict(content))
        except InterpError as error:
            self.message = neutral(str(error))
        except (KeyError, TypeError, ValueError) as error:
            self.message = f"the page sent something that makes no sense: {error!r}"

    def _act(self, content: dict[str, Any]) -> None:
        action = content["do"]
        if action == "choose":
            self.choose(self._typed(content))
        elif action == "run":
            self.run(content["methods"])
        elif action == "stop":
            self.stop()
        elif action == "controls":
            self.set_controls(**content["changes"])
        elif action == "select":
            self._select([{k: cell[k] for k in ("method", "token", "layer")} for cell in content["cells"]])
        elif action == "other":
            other = content["prompt"].rstrip()
            self.take_states_from(Fact.from_prompt(other, content["subject"].strip()) if other else None)
        elif action == "edit":
            self.edit(content["target"], method=content["method"], layer=int(content["layer"]))
        elif action == "undo":
            self.undo()
        elif action == "export":
            self._submit(partial(self._export, content["format"]), "", quick=True)
        elif action == "view":
            self._views += 1 if content["open"] else -1
            if content["open"] and self._growing.shown:
                self._begin(self._show_maps, quick=True)  # this view has not heard of the rows before
            if self._views <= 0:
                self.stop()  # nobody looks any more: the cell was run again or deleted
        else:
            raise ValueError(action)

    def _typed(self, content: dict[str, Any]) -> Fact:
        if content.get("index") is not None:
            return self._session.facts[content["index"]]
        target = content["target"].strip()
        return Fact.from_prompt(
            content["prompt"].rstrip(), content["subject"].strip(), f" {target}" if target else None
        )

    # jobs, on the worker's thread

    def _submit(self, job: Callable[[], None], doing: str, *, quick: bool = False, gives_way: bool = False) -> None:
        self._begin(partial(self._guarded, job, doing, quick), quick=quick, gives_way=gives_way)

    def _begin(self, job: Callable[[], None], **how: Any) -> None:
        if not self._worker.submit(job, **how):
            raise OptionError("the explorer is closed")

    def _guarded(self, job: Callable[[], None], doing: str, quick: bool) -> None:
        """Do a job; what goes wrong is said in a line, and the explorer stays usable."""
        self.message = ""
        if not quick:
            self.status = {"busy": True, "doing": doing, "fraction": 0.0}
        try:
            job()
        except InterpError as error:
            self.message = neutral(str(error))
        except Exception as error:
            logger.exception("the explorer could not do this")
            self.message = neutral(f"{type(error).__name__}: {error}")
        finally:
            if not quick:
                self.status = IDLE

    def _advance(self, doing: str, first: float, share: float, done: float, total: float) -> None:
        self.status = {"busy": True, "doing": doing, "fraction": first + share * done / max(total, 1)}
        self._worker.step()

    def _choose(self, fact: Fact) -> None:
        self._session.choose(fact)
        self._chosen = []
        self._show_fact()

    def _set_controls(self, changes: dict[str, float]) -> None:
        before = self._session.controls
        try:
            self._session.set_controls(**changes)
            self._restore()
        except Exception:  # too much for the memory, for example: the sliders go back, and clicks work again
            self._session.set_controls(**vars(before))
            raise
        finally:
            self._show_controls()
            self._show_maps()

    def _set_other(self, other: Fact | None) -> None:
        self._session.set_other(other)
        self._restore()

    def _locate(self, methods: list[str]) -> None:
        session = self._session
        missing = [method for method in methods if method not in session.maps]
        for index, method in enumerate(missing):
            doing = locator_named(method).doing
            self.status = {"busy": True, "doing": doing, "fraction": index / len(missing)}
            self._worker.step()
            try:
                session.locate(
                    method,
                    progress=partial(self._advance, doing, index / len(missing), 1 / len(missing)),
                    so_far=partial(self._show_rows, method),
                )
            except BaseException:
                self._growing.end(method)
                self._show_maps()
                raise
            self._growing.end(method)
            self.maps = {**self.maps, method: map_data(session.maps[method], finished=True)}

    def _edit(self, new_target: str, method: str, layer: int) -> None:
        def advance(doing: str, done: int, total: int) -> None:
            self._advance(doing, 0.0, 1.0, done, total)

        try:
            self._session.edit(new_target, method=method, layer=layer, progress=advance)
        except BaseException:
            if self.edited:  # the one before may have been taken back already
                self._show_edit()
            raise
        self._show_edit()

    def _undo(self) -> None:
        self._session.undo()
        self._show_edit()

    def _select(self, chosen: list[dict[str, Any]]) -> None:
        self._n_selected += 1
        self._submit(partial(self._restore_chosen, chosen, self._n_selected), "", quick=True)

    def _restore_chosen(self, chosen: list[dict[str, Any]], number: int) -> None:
        if number == self._n_selected:  # else a later click is waiting already
            self._chosen = chosen
            self._restore()

    def _restore(self) -> None:
        """Show the run with the chosen cells put in."""
        session, chosen = self._session, self._chosen
        if not chosen:
            self._patched = None
        else:
            window = session.controls.window
            cells = [locator_named(c["method"]).cell(c["token"], c["layer"], window) for c in chosen]
            try:
                self._patched = session.patched(cells)
            except InterpError:
                self._chosen, self._patched = [], None
                self._show_runs()
                raise
        self._show_runs()

    def _export(self, form: str) -> None:
        self.send({"export": form, "name": file_name(self._session)}, [exported(self._session, form)])

    # the page's state

    def _show_controls(self) -> None:
        session = self._session
        shown = ("deviations", "samples", "window", "steps")
        self.controls = {name: getattr(session.controls, name) for name in shown} | {"noise": session.noise}

    def _show_fact(self) -> None:
        self.fact_shown = fact_data(self._session)
        self._show_maps()
        self._restore()

    def _show_edit(self) -> None:
        found, patch = self._session.evaluation, self._session.patch
        self.edited = edit_data(found, patch) if found and patch else {}
        self._show_fact()

    def _show_runs(self) -> None:
        self.runs = runs_data(self._session, self._patched, self._chosen)

    def _show_maps(self) -> None:
        there = {method: map_data(found, finished=True) for method, found in self._session.maps.items()}
        self.maps = {**there, **self._growing.shown}

    def _show_rows(self, method: str, found: Any) -> None:
        news = self._growing.news(method, found)
        if news is not None:
            self.rows = news
