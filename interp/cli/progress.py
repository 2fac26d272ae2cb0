"""How far a command is: a bar on a terminal, lines in a log; both know the time left from the work of this session.

In a log a line comes for every finished unit of a study; elsewhere, and while a unit takes long, one every half minute.
Work that comes before the first unit, such as second moments, has a time left of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from interp.cli.console import messages
from interp.study.stage import Stage
from interp.system.readable import duration, neutral

__all__ = ["Advance", "Meter", "bar"]

FIRST_LINE, EVERY = 10.0, 30.0
"""Seconds until a log hears of a stage that says nothing of itself, and between its lines."""
WATCHED = 1.0
"""Seconds that work must have been watched before they say how long the rest takes."""


class Meter:
    """Done, in all, and the seconds left.

    What was done before the session, or before the total became known, counts for nothing: the speed is that of the
    work that was watched.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.done, self.total = 0.0, 0.0
        self.there, self._began = 0.0, clock()

    def update(self, done: float, total: float) -> None:
        """Note where the work is; another total, or less than before, begins another count."""
        if total != self.total or done < self.done:
            self.restart(done)
        self.done, self.total = done, total

    def restart(self, there: float) -> None:
        """From here on counts what is done."""
        self.there, self._began = there, self._clock()

    def left(self) -> float | None:
        """Seconds; ``None`` as long as too little was seen done."""
        worked, elapsed = self.done - self.there, self._clock() - self._began
        return elapsed * (self.total - self.done) / worked if worked > 0 and elapsed >= WATCHED else None


class Watch:
    """The meter of a command's units, and that of the stage that it is in while none of them advances."""

    def __init__(self) -> None:
        self.units = Meter()
        self._stage: tuple[str, Meter] | None = None

    def update(self, done: float, total: float, text: str) -> None:
        """Note where the work is."""
        self.units.update(done, total)
        if isinstance(text, Stage):
            if self._stage is None or self._stage[0] != text.name:
                self._stage = text.name, Meter()
            self._stage[1].update(text.done, text.total)
        elif self._stage is not None:
            self._stage = None
            self.units.restart(done)  # the stage took time and did no unit

    def left(self) -> str:
        """The time left, of the stage if there is one; empty as long as too little was seen done."""
        meter = self.units if self._stage is None else self._stage[1]
        seconds = meter.left()
        if seconds is None or meter.done >= meter.total:
            return ""
        return f"{duration(seconds)} left{'' if self._stage is None else ' of this'}"


Show = Callable[[str, bool], None]


class Advance:
    """What work calls with (done, in all), and what is being done."""

    def __init__(self, watch: Watch, show: Show, units: str) -> None:
        self._watch, self._show, self._units = watch, show, units
        self._at_work = not units

    def __call__(self, done: float, total: float, text: str = "") -> None:
        """Say how far the work is."""
        self._watch.update(done, total, text)
        # where a unit was there already nothing is said to be done; a total of one is a look at what is to do
        if not self._at_work and (done % 1 or (text and total > 1)):
            self._at_work = True
            self._watch.units.restart(int(done))
            if done >= 1:
                messages.print(f"{int(done)} of {total:.0f} {self._units} were there already", soft_wrap=True)
        self._show(" ".join(neutral(text).split()), self._at_work)

    def left(self) -> str:
        """The time left in words; empty as long as nobody knows."""
        return self._watch.left()


@contextmanager
def bar(label: str, *, units: str = "", part: str = "") -> Iterator[Advance]:
    """Show what is being done, from its first second on a terminal.

    Args:
        label: What, as long as nothing else is said.
        units: What is counted, where single ones are worth a line (``"units"``); how many were there before anything
            was done is said once.
        part: Which part of a longer work this is, such as ``"part 1 of 2"``.
    """
    watch = Watch()
    kind = _on_a_terminal if messages.is_terminal else partial(_in_a_log, every_unit=bool(units))
    with kind(label, watch, f" ({part})" if part else "") as show:
        yield Advance(watch, show, units)


@contextmanager
def _on_a_terminal(label: str, watch: Watch, part: str) -> Iterator[Show]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    room = messages.width - 50 - len(part)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=max(8, min(40, room))),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task(label, total=None, left=part.strip())

        def show(text: str, at_work: bool) -> None:
            progress.update(
                task,
                completed=watch.units.done,
                total=watch.units.total,
                description=_cut(text or label, max(12, room)),
                left=f"{watch.left()}{part}".strip(),
            )

        yield show


@contextmanager
def _in_a_log(label: str, watch: Watch, part: str, *, every_unit: bool) -> Iterator[Show]:
    stopped, lock = threading.Event(), threading.Lock()
    said: list[int] = []
    doing = [label]

    def line() -> str:
        left, units = watch.left(), watch.units
        count = f"[{int(units.done)}/{units.total:.0f}] " if units.total else ""
        return f"{count}{doing[0]}" + (f", {left}" if left else "") + part

    def show(text: str, at_work: bool) -> None:
        with lock:
            doing[0] = text or label
            if every_unit and at_work and text and said[-1:] != [int(watch.units.done)]:
                said.append(int(watch.units.done))
                messages.print(line(), soft_wrap=True)

    def beat() -> None:
        wait = FIRST_LINE
        while not stopped.wait(wait):
            with lock:
                messages.print(line(), soft_wrap=True)
            wait = EVERY

    thread = threading.Thread(target=beat, name="interp-log", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        stopped.set()
        thread.join(1.0)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
