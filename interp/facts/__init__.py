"""Facts, requests and cases, and the files that they come in."""

from interp.facts.records import EditCase, EditRequest, Fact, Probe

__all__ = ["EditCase", "EditRequest", "Fact", "Probe"]
