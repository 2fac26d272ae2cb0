"""Facts, requests and cases, and the files that they come in."""

from interp.facts.case_files import case_around, load_cases
from interp.facts.fact_files import load_facts
from interp.facts.records import EditCase, EditRequest, Fact, Probe

__all__ = ["EditCase", "EditRequest", "Fact", "Probe", "case_around", "load_cases", "load_facts"]
