"""What nobody types on purpose and every day brings: texts, values and JSON with something wrong in them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st

TEXTS = (
    "", " ", "\n", "\t", "\r\n", "\x00", "\x07", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x85", "\x9b2J",
    "\ud800", "\udcff", "\u202eabc", "\u200b", "\ufeff", "\xa0", "\u2028", "e\u0301", "ﷺ", "日本語",
    "👨\u200d👩\u200d👧", "\U0010ffff", "<|endoftext|>", "<s>", "</s>", "{}", "{", "}", "{0}", "{}{}", "{{}}",
    "{subject}", "%s", "$x$", "\\frac{1}{0}", "<script>alert(1)</script>", "'", '"', "[bold]x[/bold]", "[/]", ":smile:",
    "../../etc/passwd", "-1", "--help", "null", "true", "ab " * 3000, "a" * 100_000,
)  # fmt: skip
WORDS = ("The", "Eiffel Tower", "is", "located in", "the city of", "Paris", " Rome", "Tokyo")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 1.5, float("nan"), float("inf"), -float("inf"), 2**31, 2**32, 2**63, 10**30,
    -(10**30), 1e308, 1e-320, "", "x", "10", "all", "3sigma", [], [1], {}, {"a": 1}, (), (1, 2), (5, 4), (-1,), (99,),
    (1.0,), b"x", object, np.int64(3), np.float32(0.5), np.bool_(True), np.array([1, 2]),
)  # fmt: skip

hostile_texts = st.one_of(st.sampled_from(TEXTS), st.text(st.characters(), max_size=12))


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Words with something strange among them."""
    parts = draw(
        st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), hostile_texts), min_size=1, max_size=5)
    )
    return draw(st.sampled_from([" ", " ", ""])).join(parts)


def _leaves() -> st.SearchStrategy[Any]:
    plain = [value for value in VALUES if value is None or type(value) in (bool, int, float, str, list, dict)]
    return st.one_of(st.sampled_from(plain), hostile_texts)


@st.composite
def spoiled(draw: st.DrawFn, value: Any, depth: int = 0) -> Any:
    """A JSON value with something wrong in it (or, now and then, nothing)."""
    if depth > 4 or draw(st.integers(0, 9)) == 9:
        return draw(_leaves())
    if isinstance(value, dict):
        fields = {}
        for name, entry in value.items():
            what = draw(st.integers(0, 15))
            if what == 15:
                continue  # left out
            fields[name] = draw(spoiled(entry, depth + 1)) if what < 4 else entry
        if draw(st.integers(0, 11)) == 11:
            fields[draw(hostile_texts)[:50]] = draw(_leaves())
        return fields
    if isinstance(value, list):
        entries = [draw(spoiled(entry, depth + 1)) if draw(st.booleans()) else entry for entry in value]
        return entries * draw(st.sampled_from([1, 1, 1, 0, 2]))
    if isinstance(value, str):
        at = draw(st.integers(0, len(value)))
        return draw(
            st.sampled_from([value, value + " ", " " + value, value.upper(), value[:at]])
            | hostile_texts.map(lambda text: value[:at] + text + value[at:])
            | texts()
        )
    return draw(_leaves())


@st.composite
def files(draw: st.DrawFn, records: list[Any], *, lines: bool) -> bytes:
    """The records as a file, sometimes not quite JSON."""
    ascii_only = draw(st.booleans())
    parts = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    data = ("\n".join(parts) if lines else f"[{', '.join(parts)}]").encode("utf-8", "surrogatepass")
    how = draw(st.integers(0, 20))
    if how == 0:
        return data[: draw(st.integers(0, len(data)))]
    if how == 1 and data:
        at = draw(st.integers(0, len(data) - 1))
        return data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
    if how == 2:
        return b"\xef\xbb\xbf" + data
    if how == 3:
        return data.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass")
    if how == 4:
        odd = [b"", b"\x00" * 100, b"null", b"0", b'"x"', b"{}", b"[]", b"[[]]", b"[null]", b"NaN", b"[1e999]"]
        return draw(st.sampled_from([*odd, b"[" + b"9" * 5000 + b"]", b"[" * 100_000]))
    return data
