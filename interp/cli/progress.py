"""How far a command is: a bar on a terminal, lines in a log; both know the time left from the work of this session.

In a log a line comes for every finished unit of a study; elsewhere, and while a unit takes long, one every half minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from interp.cli.console import messages
from interp.system.readable import neutral

__all__ = ["Meter", "bar", "duration"]

FIRST_LINE, EVERY = 10.0, 30.0
"""Seconds until a log hears of a stage that says nothing of itself, and between its lines."""
WATCHED = 1.0
"""Seconds that work must have been watched before they say how long the rest takes."""

Advance = Callable[..., None]
"""Called with (done, in all) and what is being done."""


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


def duration(seconds: float) -> str:
    """Seconds as one says them: ``40 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def bar(label: str, *, units: str = "") -> Iterator[Advance]:
    """Show what is being done, from its first second on a terminal.

    Args:
        label: What, as long as nothing else is said.
        units: What is counted, where single ones are worth a line (``"units"``); how many were there before anything
            was done is said once.
    """
    meter = Meter()
    at_work = [not units]
    doing = _on_a_terminal(label, meter) if messages.is_terminal else _in_a_log(label, meter, bool(units))
    with doing as show:

        def advance(done: float, total: float, text: str = "") -> None:
            meter.update(done, total)
            # where a unit was there already nothing is said to be done; a total of one is a look at what is to do
            if not at_work[0] and (done % 1 or (text and total > 1)):
                at_work[0] = True
                meter.restart(int(done))
                if done >= 1:
                    messages.print(f"{int(done)} of {total:.0f} {units} were there already", soft_wrap=True)
            show(" ".join(neutral(text).split()), at_work[0])

        yield advance


@contextmanager
def _on_a_terminal(label: str, meter: Meter) -> Iterator[Callable[[str, bool], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=max(8, min(40, messages.width - 50))),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task(label, total=None, left="")

        def show(text: str, at_work: bool) -> None:
            left = meter.left()
            progress.update(
                task,
                completed=meter.done,
                total=meter.total,
                description=_cut(text or label, max(12, messages.width - 50)),
                left="" if left is None else f"{duration(left)} left",
            )

        yield show


@contextmanager
def _in_a_log(label: str, meter: Meter, every_unit: bool) -> Iterator[Callable[[str, bool], None]]:
    stopped, lock = threading.Event(), threading.Lock()
    said: list[int] = []
    doing = [label]

    def line() -> str:
        left = meter.left()
        count = f"[{int(meter.done)}/{meter.total:.0f}] " if meter.total else ""
        return f"{count}{doing[0]}" + ("" if left is None or meter.done >= meter.total else f", {duration(left)} left")

    def show(text: str, at_work: bool) -> None:
        with lock:
            doing[0] = text or label
            if every_unit and at_work and text and said[-1:] != [int(meter.done)]:
                said.append(int(meter.done))
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
