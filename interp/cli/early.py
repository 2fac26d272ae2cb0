"""Figures, tables and the report of a study while it runs.

Figure 1 is drawn as soon as three facts are located, Table 1 as soon as every row has a case, and both again as more
come. Drawing takes time from the study, so it is done sparsely: when there is a quarter more, and not for more than a
fiftieth of the time. What is drawn early says so; what is drawn at the end is the same bytes with or without it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interp.cli.console import messages
from interp.cli.progress import Advance
from interp.errors import InterpError

if TYPE_CHECKING:
    from interp.locate.class_average import ClassAverage
    from interp.report.contents import Contents
    from interp.report.page import Page
    from interp.study.workers import StudyProgress

__all__ = ["REPORT", "Early", "say_report"]

logger = logging.getLogger(__name__)

REPORT = "report.html"
SHARE = 0.02
"""Of a study's time that drawing may take, but for the first time."""
MORE = 1.25
"""How many times as many facts or edits there must be before they are drawn again."""
LOOK, SAY = 5.0, 20.0
"""Seconds between two looks at what is there, and between two writings of how far the study is."""


def say_report(place: Path, averages: Sequence[ClassAverage] | None = None, out: Path | None = None) -> None:
    """Write the report of a run folder, and say where it is.

    Args:
        place: The folder.
        averages: Of its facts, to spare reading them again.
        out: The file; in the folder by default.

    Raises:
        DataError: If it is no run folder, or something in it is damaged.
    """
    from interp.report import read_contents, report_html
    from interp.system.files import write_atomically

    path = out or place / REPORT
    write_atomically(path, report_html(read_contents(place, averages=averages)).encode())
    messages.print(f"wrote {path}", soft_wrap=True)


class Early:
    """What a study draws before it ends.

    Args:
        place: The run folder.
        figures: The folder of the figures.
        width: Of Figure 1.
        edits_follow: Whether cases are edited afterwards.
    """

    def __init__(self, place: Path, figures: Path, *, width: str = "page", edits_follow: bool) -> None:
        self._place, self._figures, self._width, self._edits_follow = place, figures, width, edits_follow
        self._averages: list[ClassAverage] | None = None
        self._page: Page | None = None
        self._began, self._looked, self._wrote = time.monotonic(), 0.0, 0.0
        self._spent, self._cost, self._drawn = 0.0, 0.0, 0
        self._status = ""
        self._said: set[str] = set()
        self._told = False

    def locating(self, advance: Advance) -> StudyProgress:
        """Watch facts being located; what is returned calls ``advance``."""
        return self._watching(advance, "locating facts", self._facts)

    def editing(self, advance: Advance, averages: list[ClassAverage]) -> StudyProgress:
        """Watch cases being edited."""
        self._averages, self._drawn = averages, 0
        return self._watching(advance, "editing cases", self._edits)

    def located(self, averages: list[ClassAverage]) -> None:
        """All facts are located: their final maps go into the report."""
        self._averages, self._status = averages, ""
        self._safely(self._anew)

    def _watching(self, advance: Advance, what: str, draw: Callable[[int, int], None]) -> StudyProgress:
        def watched(done: float, total: int, text: str) -> None:
            advance(done, total, text)
            if text and done < total > 1 and time.monotonic() - self._looked >= LOOK:
                now = f"{time.strftime('%H:%M')}: {what}, {int(done)} of {total} units"
                self._status = ", ".join(filter(None, (now, advance.left()))) + "."
                self._safely(lambda: self._look(lambda: draw(int(done), total)))
                self._looked = time.monotonic()

        return watched

    def _safely(self, work: Callable[[], None]) -> None:
        """What cannot be drawn yet, as a record is damaged and will be computed again, stops no study."""
        try:
            work()
        except (InterpError, OSError) as error:
            if str(error) not in self._said:
                logger.warning("not drawn yet: %s", error)
            self._said.add(str(error))

    def _look(self, draw: Callable[[], None]) -> None:
        if self._page is None:
            self._anew()
        if not self._told:
            where = self._place / REPORT
            messages.print(f"report: {where}; open it in a browser, it follows the study", soft_wrap=True)
            self._told = True
        draw()
        if time.monotonic() - self._wrote >= SAY:
            self._write()

    def _facts(self, done: int, total: int) -> None:
        from interp import plots
        from interp.report.contents import FEWEST_FACTS
        from interp.results.run_folder import RunFolder
        from interp.study.located import class_averages, count_located
        from interp.system.files import write_atomically

        run = RunFolder(self._place)
        n, of = count_located(run)
        if not max(FEWEST_FACTS, MORE * self._drawn) <= n < of or not self._may_draw():
            return
        start = time.monotonic()
        self._averages = class_averages(run)
        plots.save_figure(plots.figure1(self._averages, width=self._width, of=of), self._figures / "figure1", ("svg",))
        write_atomically(self._figures / "figure1.html", plots.figure1_html(self._averages, of=of).encode())
        self._take()
        self._note(start, n, f"so far {n} of {of} facts: wrote {self._figures / 'figure1.svg'}")

    def _edits(self, done: int, total: int) -> None:
        from interp.plots import table1_markdown
        from interp.report.findings import missing
        from interp.results.run_folder import RunFolder
        from interp.study.left import rows_begun
        from interp.system.files import write_atomically

        if not max(1, MORE * self._drawn) <= done <= total / MORE or not self._may_draw():
            return
        begun, rows = rows_begun(RunFolder(self._place / "edits"))
        if begun < rows:
            return
        start = time.monotonic()
        contents = self._take()
        assert contents.edited is not None
        assert contents.edited.results is not None
        results = contents.edited.results
        title = f"So far: {' '.join(missing(contents))}"
        text = table1_markdown(results.rows, results.comparisons, title=title)
        write_atomically(self._figures / "table1.md", text.encode())
        self._note(start, done, f"so far {done} of {total} edits: wrote {self._figures / 'table1.md'}")

    def _may_draw(self) -> bool:
        elapsed = time.monotonic() - self._began
        return not self._drawn or self._spent + self._cost <= SHARE * elapsed

    def _note(self, start: float, n: int, said: str) -> None:
        """Something was drawn: what it took, and the first time of it where it is."""
        self._write()
        self._cost = time.monotonic() - start
        self._spent += self._cost
        if not self._drawn:
            messages.print(said, soft_wrap=True)
        self._drawn = n

    def _take(self) -> Contents:
        """Read what is there into another page."""
        from interp.report.contents import read_contents
        from interp.report.page import Page

        contents = read_contents(self._place, averages=self._averages or (), edits_follow=self._edits_follow)
        self._page = Page(contents, self._page)
        return contents

    def _anew(self) -> None:
        self._take()
        self._write()

    def _write(self) -> None:
        from interp.system.files import write_atomically

        assert self._page is not None
        write_atomically(self._place / REPORT, self._page.html(self._status).encode())
        self._wrote = time.monotonic()
