"""The report of a study: one page that needs nothing else, from records alone, while the study runs and afterwards.

:mod:`interp.report.contents` reads what a run folder holds so far, :mod:`interp.report.findings` says in words what the
numbers show and what they do not, :mod:`interp.report.page` puts it on a page.
"""

from interp.report.contents import Contents, EditsPart, FactsPart, read_contents
from interp.report.page import report_html

__all__ = ["Contents", "EditsPart", "FactsPart", "read_contents", "report_html"]
