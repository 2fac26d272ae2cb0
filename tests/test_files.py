"""Files and folders that are there whole or not at all, and what killed processes leave behind."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.errors import DataError
from interp.system.files import exists, only_one, remove_abandoned, temporary_folder, write_atomically

# a process that begins to write a file and a folder, says so, and waits for its end
WRITER = """
import sys, time
from pathlib import Path
from interp.system.files import temporary_folder, write_atomically

place = Path(sys.argv[1])
with temporary_folder(place / "model") as folder:
    (folder / "half").write_bytes(b"half")
    import os
    def waits(handle):
        print("ready", flush=True)
        time.sleep(60)
    os.fsync = waits
    write_atomically(place / "record", b"half")
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def age(folder: Path, seconds: float) -> None:
    for name in hidden(folder):
        then = time.time() - seconds
        os.utime(folder / name, (then, then))


@pytest.fixture
def writer(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(
    tmp_path: Path, writer: subprocess.Popen[str]
) -> None:
    assert len(hidden(tmp_path)) == 2
    age(tmp_path, 1e6)
    write_atomically(tmp_path / "other", b"data")  # the writer lives and holds both, however old they are
    assert len(hidden(tmp_path)) == 2
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(hidden(tmp_path)) == 2
    write_atomically(tmp_path / "other", b"data")
    assert hidden(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_another_machines_leftovers_are_removed_when_they_are_old(tmp_path: Path) -> None:
    for name in (".record-00000000_1_abc.part", ".model-00000000_1_abc.part"):
        (tmp_path / name).mkdir() if "model" in name else (tmp_path / name).write_bytes(b"half")
    for name in (".hidden", ".git", ".x.part", "record-00000000_1_abc.part"):
        (tmp_path / name).write_bytes(b"somebody's")
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    age(tmp_path, 7200)
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".git", ".hidden", ".x.part", "record-00000000_1_abc.part"
    ]  # fmt: skip


def test_a_folder_that_cannot_be_listed_is_no_error(tmp_path: Path) -> None:
    remove_abandoned(tmp_path / "missing")


def test_others_may_read(tmp_path: Path) -> None:
    assert write_atomically(tmp_path / "a", b"data")
    assert (tmp_path / "a").read_bytes() == b"data"
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o644
    assert hidden(tmp_path) == []


def test_the_first_of_several_writers_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    for name in ("linked", "without links"):
        if name == "without links":
            monkeypatch.setattr(os, "link", no_links)
        assert write_atomically(tmp_path / name, b"first", replace=False)
        assert not write_atomically(tmp_path / name, b"second", replace=False)
        assert (tmp_path / name).read_bytes() == b"first"
        assert write_atomically(tmp_path / name, b"third")
        assert (tmp_path / name).read_bytes() == b"third"
    assert hidden(tmp_path) == []


def test_nothing_is_left_when_renaming_fails(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "inside").mkdir(parents=True)  # a file cannot replace a folder
    with pytest.raises(DataError, match="place cannot be written"):
        write_atomically(place, b"data")
    assert list(tmp_path.iterdir()) == [place]
    assert list(place.iterdir()) == [place / "inside"]


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError(), KeyboardInterrupt()]
)
def test_nothing_is_left_when_a_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    def fail(*args: object) -> None:
        raise error

    (tmp_path / "a").write_bytes(b"before")
    monkeypatch.setattr(os, step, fail)
    expected = DataError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write_atomically(tmp_path / "a", b"data")
    if isinstance(error, OSError):
        assert str(caught.value) == f"{tmp_path / 'a'} cannot be written: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"before"


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is allowed to root")
def test_a_forbidden_folder(tmp_path: Path) -> None:
    folder = tmp_path / "forbidden"
    folder.mkdir(mode=0o000)
    try:
        with pytest.raises(DataError, match="forbidden/a cannot be written: Permission denied"):
            write_atomically(folder / "a", b"data")
        with pytest.raises(DataError, match="forbidden/a cannot be read: Permission denied"):
            exists(folder / "a")
    finally:
        folder.chmod(0o700)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(DataError, match="cannot be written"):
            write_atomically(tmp_path / name, b"data")
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        exists(tmp_path / ("x" * 300))
    long = tmp_path / ("ü" * 125 + ".json")  # 255 bytes, as many as there can be: the temporary name is shorter
    write_atomically(long, b"data")
    assert list(tmp_path.iterdir()) == [long]


def test_a_temporary_folder_goes_whatever_ends_the_block(tmp_path: Path) -> None:
    def begun(folder: Path) -> None:
        (folder / "x").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path / "a") as folder:
        begun(folder)
    assert list(tmp_path.iterdir()) == []
    with temporary_folder(tmp_path / "a") as folder:
        assert folder.parent == tmp_path
        os.replace(folder, tmp_path / "a")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_only_one(tmp_path: Path) -> None:
    """A second process waits for the first."""
    script = """
import sys
from pathlib import Path
from interp.system.files import only_one
print("waits", flush=True)
with only_one(Path(sys.argv[1])):
    print("is in", flush=True)
"""
    with only_one(tmp_path):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    assert process.communicate(timeout=20)[0] == "is in\n"
    with only_one(tmp_path / "missing"):
        pass


def test_only_one_where_folders_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on NFS, where only what is open for writing can be."""
    fcntl = pytest.importorskip("fcntl")
    flock = fcntl.flock

    def on_nfs(handle: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", on_nfs)
    for _ in range(2):
        with only_one(tmp_path), (tmp_path / ".lock").open("r+") as other, pytest.raises(BlockingIOError):
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (tmp_path / ".lock").open("r+") as other:
            flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
