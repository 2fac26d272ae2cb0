"""What ran, as names and values: the model, the settings that the numbers depend on, how long it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from interp.report.contents import Contents
from interp.system.readable import duration, number

__all__ = ["settings_tables"]

Rows = list[tuple[str, str]]

NAMES = {
    "facts": "facts from",
    "facts_sha256": "hash of the facts",
    "cases": "cases from",
    "cases_sha256": "hash of the cases",
    "limit": "at most",
    "context_kinds": "contexts (tokens, texts)",
    "corpus": "text of the second moments",
    "chosen": "layers pointed to",
    "layers": "layers given",
}
"""What settings are called whose own name does not say it."""


def settings_tables(contents: Contents) -> Iterator[tuple[str, Rows]]:
    """Headings, and below each names and values as plain text."""
    located, edited = contents.located, contents.edited
    yield "Model and machine", _model(located.settings.get("provenance") or {}, contents)
    shown = dict(located.settings)
    if located.noise is not None:
        shown["noise"] = f"{number(located.noise)} (asked for: {shown.get('noise')})"
    yield "Locating", _rows(shown)
    if edited is not None:
        yield "Editing", _rows({name: value for name, value in edited.settings.items() if name != "noise"})


def _model(provenance: Mapping[str, Any], contents: Contents) -> Rows:
    rows = [
        ("model", str(provenance.get("model"))),
        ("hash of its weights", str(provenance.get("weights_hash"))),
        ("number format", str(provenance.get("dtype"))),
        ("device", str(provenance.get("device"))),
        ("versions", _text(provenance.get("versions") or {})),
    ]
    if provenance.get("patches"):
        rows.append(("patches on the model", _text(provenance["patches"])))
    if contents.began is not None and contents.latest is not None:
        spent = duration(contents.latest - contents.began)
        rows.append(("time", f"{spent} from the first file to the latest, by their dates; breaks count too"))
    return rows


def _rows(settings: Mapping[str, Any]) -> Rows:
    """Settings by name; what is not set is not shown."""
    return [
        (NAMES.get(name, name.replace("_", " ")), "all" if name == "limit" and value is None else _text(value))
        for name, value in settings.items()
        if name != "provenance" and (value is not None or name == "limit")
    ]


def _text(value: Any) -> str:
    """A value of JSON in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list | tuple):
        return ", ".join(f"({_text(each)})" if isinstance(each, list | tuple) else _text(each) for each in value)
    return str(value)
