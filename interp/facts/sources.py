"""Sources of data: text files and names of data sets on the Hugging Face hub, with errors that name them."""

from __future__ import annotations

import re
from pathlib import Path

from interp.errors import DataError, excerpt

__all__ = ["check_hub_name", "hub_failure", "read_text", "shorten", "shown_name"]


def shown_name(source: str | Path) -> str:
    """A source's name for messages: as it is, with escapes for what a terminal would not show."""
    name = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(source))
    return name if len(name) <= 240 else f"{name[:120]}…{name[-119:]}"


def read_text(source: str | Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark; ``~`` is the home folder.

    Raises:
        DataError: If it is missing, a folder, may not be read or is not such a text.
    """
    name = shown_name(source)
    if not str(source).strip():
        raise DataError("the name of the file is empty")
    try:
        return _decoded(Path(source).expanduser().read_bytes(), name)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{name}: cannot be read: it is a folder") from error
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a lone surrogate, a home that does not exist
        raise DataError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decoded(data: bytes, name: str) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: cannot be read: it is UTF-16; save it as UTF-8")
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = f"byte 0x{data[error.start]:02x} at {error.start}"
        raise DataError(f"{name}: cannot be read: it is not UTF-8 ({at})") from error
    if "\0" in content:
        raise DataError(f"{name}: cannot be read: it holds NUL bytes; expected text in UTF-8")
    return content.replace("\r\n", "\n").replace("\r", "\n")  # as files are read that are opened as text


def check_hub_name(name: str) -> None:
    """Refuse what is no name of a data set on the Hugging Face hub, or would be read from a folder instead.

    Args:
        name: What comes after ``hub:``.

    Raises:
        DataError: Naming it.
    """
    part = r"[A-Za-z0-9][A-Za-z0-9_.\-]*"
    if not re.fullmatch(f"{part}(/{part})?", name) or len(name) > 96:
        raise DataError(f"{excerpt('hub:' + name)} is no data set of the Hugging Face hub; expected 'hub:OWNER/NAME'")
    if Path(name).exists():
        raise DataError(f"hub:{name}: a file or folder {name!r} is here and would be read instead; give its path")


def hub_failure(name: str, error: Exception) -> str:
    """What to say when a data set of the hub could not be loaded."""
    reason = shorten(" ".join(str(error).split()) or type(error).__name__, 200)
    return f"hub:{name}: cannot be loaded from the Hugging Face hub: {reason}"


def shorten(message: object, limit: int = 400) -> str:
    """A message about a record, which may quote whole texts of it, cut to a length that fits a screen."""
    shown = str(message)
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
