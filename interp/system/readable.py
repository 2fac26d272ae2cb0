"""Texts of files, models and users as people may see them: nothing in them steers a terminal, turns the reading
direction or hides.

Every place that shows such a text goes through here: the command line's consoles, figures, pages and the explorer; and
numbers and seconds as one reads them.
"""

from __future__ import annotations

import html
import re
from functools import cache

__all__ = [
    "UNSAFE",
    "bytes_of_token",
    "duration",
    "in_html",
    "neutral",
    "number",
    "probability",
    "token_label",
    "with_bytes",
]

LONGEST_LABEL = 22
SIGNS = {"\n": "↵", "\r": "↵", "\t": "→", " ": "·", "\xa0": "·"}
_KEPT = "\n\t"
UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of direction
    "\u2028\u2029\ufeff\ud800-\udfff]"  # separators of lines, the byte order mark, halves of characters
)


def neutral(text: str, *, kept: str = _KEPT) -> str:
    """A text with every character that could steer a terminal or turn the reading direction written as an escape.

    These are the control characters C0 and C1 (among them ESC, which starts commands to a terminal), DEL, halves of
    characters, line separators, marks and overrides of direction, and the byte order mark. All others stay as they
    are, letters of every script and joiners too.

    Args:
        text: Any text.
        kept: Control characters that stay: a line feed and a tab by default.
    """
    return UNSAFE.sub(lambda found: found[0] if found[0] in kept else _escape(found[0]), text)


def in_html(text: str) -> str:
    """A text within a page: no markup, no character that hides or turns others."""
    return html.escape(neutral(text), quote=True)


def token_label(token: str) -> str:
    """A token's text with white space made visible; a leading space, which most tokens have, is left out."""
    inner = token[1:] if token.startswith(" ") and token.strip() else token
    shown = "".join(SIGNS.get(c, c) if c != " " else (" " if token.strip() else "·") for c in inner)
    shown = "".join(c if c.isprintable() else _escape(c) for c in neutral(shown, kept="")) or "∅"
    return shown if len(shown) <= LONGEST_LABEL else shown[: LONGEST_LABEL - 1] + "…"


def with_bytes(raw: bytes) -> str:
    """The text of some bytes, with those that are a part of a character only in angle brackets: ``⟨E6 9D⟩``."""
    shown = ""
    while raw:
        try:
            shown, raw = shown + raw.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            wrong = " ".join(f"{byte:02X}" for byte in raw[error.start : error.end])
            shown += raw[: error.start].decode("utf-8") + f"⟨{wrong}⟩"
            raw = raw[error.end :]
    return shown.replace("⟩⟨", " ")


def bytes_of_token(piece: str) -> bytes | None:
    """The bytes behind a vocabulary entry that is written in bytes, or ``None`` if this one is not.

    Two forms are in use: ``<0xE6>`` (byte fallback of SentencePiece), and the byte alphabet of GPT-2, in which every
    byte has a printable character of its own.
    """
    if found := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece):
        return bytes([int(found[1], 16)])
    alphabet = _byte_alphabet()
    return bytes(alphabet[c] for c in piece) if piece and all(c in alphabet for c in piece) else None


@cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: bytes that are printable stand for themselves, the others for the characters from 256 on."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def number(value: float) -> str:
    """A short decimal number."""
    return f"{round(value, 12) + 0.0:.4g}".replace("-", "−")


def probability(value: float) -> str:
    """A probability as it is read: three decimals, and no 0 that is none."""
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds as one says them: ``40 s``, ``3 min``, ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
