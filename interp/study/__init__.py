"""The paper's study on any model: facts located, cases edited, what was found."""

from interp.study.locating import LocateSettings, class_averages, locate_facts, located

__all__ = ["LocateSettings", "class_averages", "locate_facts", "located"]
