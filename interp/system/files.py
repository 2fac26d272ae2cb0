"""Files and folders that are there whole or not at all, and what a killed process leaves behind.

1. What is to be written goes under a temporary name beside its place and is renamed; a reader sees all or nothing.
2. The name says which machine and process made it, and the process holds a lock on it (``flock``), which ends with
   the process however it ends.
3. Whoever writes to the same folder later removes what nobody holds: at once if its process is known to be dead,
   after an hour in any case (another machine's, or a file system without locks).
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no locks, age alone decides
    fcntl = None  # type: ignore[assignment]

from interp.errors import DataError

__all__ = ["exists", "only_one", "reason", "remove_abandoned", "temporary_folder", "write_atomically"]

ABANDONED_AFTER = 3600.0
"""Seconds after which a temporary file that nobody holds is removed whoever made it."""

_TEMPORARY = re.compile(r"\..*-(?P<machine>[0-9a-f]{8})_(?P<process>[0-9]+)_[a-z0-9_]+\.part")


def reason(error: BaseException) -> str:
    """What an error of the operating system says, without the path that the message names anyway."""
    return str(getattr(error, "strerror", None) or error)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        DataError: If that cannot be found out (a folder on the way is forbidden, the name is too long).
    """
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {reason(error)}") from error


def write_atomically(path: Path, data: bytes, *, replace: bool = True) -> bool:
    """Write to a temporary file beside ``path`` and rename it.

    Args:
        path: Where; missing folders are made.
        data: The bytes.
        replace: Whether a file that is there already is replaced. If not, the first of several writers succeeds.

    Returns:
        Whether it was written; False only without ``replace``.

    Raises:
        DataError: If the place cannot be written (forbidden, no space, no folder); nothing is left then.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=".part")
        try:
            _hold(handle)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(temporary, 0o644)  # mkstemp's files are private; these are to be shared
                if replace:
                    os.replace(temporary, path)
                    return True
                return _place(temporary, path, data)
        finally:
            with suppress(FileNotFoundError):  # renamed
                os.unlink(temporary)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be written: {reason(error)}") from error


def _place(temporary: str, path: Path, data: bytes) -> bool:
    """Give a finished file its name unless another has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
    return True


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` to be renamed to it; removed at the end if it has not been.

    Raises:
        OSError: If it cannot be made.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(place.parent)
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=_prefix(place), suffix=".part"))
    handle = None
    try:
        with suppress(OSError):  # a folder cannot be opened on Windows
            handle = os.open(folder, os.O_RDONLY)
            _hold(handle)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block with the same folder, where the file system has locks.

    On NFS only what is open for writing can be locked, which a folder never is: there it is a file in it, ``.lock``.
    """
    handles: list[int] = []
    try:
        with suppress(OSError):
            handles.append(os.open(folder, os.O_RDONLY))
            if fcntl is not None:
                try:
                    fcntl.flock(handles[0], fcntl.LOCK_EX)
                except OSError:
                    handles.append(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644))
                    fcntl.flock(handles[1], fcntl.LOCK_EX)
        yield
    finally:
        for handle in handles:
            os.close(handle)


def remove_abandoned(folder: Path, also: re.Pattern[str] | None = None) -> None:
    """Remove temporary files and folders whose writers were killed; what may be in use stays.

    Args:
        folder: Where to look; not below it. Nothing happens if it cannot be read.
        also: Other names that are temporary, by age alone.
    """
    try:
        names = [name for name in os.listdir(folder) if name.startswith(".")]
    except OSError:
        return
    for name in names:
        made = _TEMPORARY.fullmatch(name)
        if made is None and (also is None or also.fullmatch(name) is None):
            continue
        path = folder / name
        with suppress(OSError):  # another process removed it, or it is not ours to remove
            status = path.lstat()
            dead = made is not None and made["machine"] == _machine() and not _alive(int(made["process"]))
            if not (dead or time.time() - status.st_mtime > ABANDONED_AFTER):
                continue
            if stat.S_ISDIR(status.st_mode) and not _held(path):
                shutil.rmtree(path, ignore_errors=True)
            elif stat.S_ISREG(status.st_mode) and not _held(path):
                path.unlink()


def _prefix(path: Path) -> str:
    name = path.name.encode(errors="surrogateescape")[:120].decode(errors="ignore")  # names have 255 bytes at most
    return f".{name}-{_machine()}_{os.getpid()}_"


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _alive(process: int) -> bool:
    if os.name != "posix":
        return True  # os.kill would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _hold(handle: int) -> None:
    """Lock an open file until it is closed, where the file system can."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _held(path: Path) -> bool:
    """Whether a process holds a lock on it; False where that cannot be known."""
    if fcntl is None:
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
