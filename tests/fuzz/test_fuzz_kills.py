"""Kills, full disks and two processes at once: a study that is started again ends with the same files, to the byte."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from tests.fuzz.small_study import log_of, started, tree, waited
from tests.fuzz.trials import SCALE, on_linux, rounds

pytestmark = [
    pytest.mark.skipif(not on_linux(), reason="forks and /proc as on Linux"),
    pytest.mark.filterwarnings("ignore::interp.errors.InterpWarning"),  # it is quick, and far too little for numbers
]


@pytest.fixture(scope="module")
def whole(tiny: HookedTransformer, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The files of a study that nothing interrupts, and the processor time that it takes."""
    place = tmp_path_factory.mktemp("whole")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    status = waited(started(tiny, place / "run", place / "cache"), 600)
    assert status == 0, log_of(place / "run").read_text()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return tree(place / "run") | {f"cache/{name}": data for name, data in tree(place / "cache").items()}, took


def _same(place: Path, whole: dict[str, bytes]) -> None:
    found = tree(place / "run") | {f"cache/{name}": data for name, data in tree(place / "cache").items()}
    assert set(found) == set(whole)
    assert [name for name in whole if found[name] != whole[name]] == []


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda sig: sig.name)
def test_a_study_killed_at_any_moment_and_started_again_ends_with_the_same_files(
    tiny: HookedTransformer,
    whole: tuple[dict[str, bytes], float],
    outcomes: Counter[str],
    tmp_path: Path,
    sig: signal.Signals,
) -> None:
    reference, took = whole
    generator = random.Random(int(sig) if SCALE == 1 else None)
    for _ in rounds(1):
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for kill in range(4):
            at_write = generator.random() < 0.5
            step = (generator.randint(1, 60), int(sig)) if at_write else None
            pid = started(tiny, place / "run", place / "cache", die_at_write=step if kill < 3 else None)
            status = waited(pid, generator.uniform(0, took) if kill < 3 and not at_write else 10 * took + 60)
            if status is None:
                os.kill(pid, sig)
                _, status = os.waitpid(pid, 0)
            if status == 0:
                outcomes["finished"] += 1
                break
            outcomes[f"killed by {sig.name} {'while writing' if at_write else 'at a random moment'}"] += 1
            there = tree(place / "run")
            torn = [name for name in there if name in reference and there[name] != reference[name]]
            assert torn == [], f"torn by {sig.name}"
        else:
            raise AssertionError(log_of(place / "run").read_text()[-2000:])
        _same(place, reference)


def test_two_processes_on_one_folder_and_one_cache_end_with_the_files_of_one(
    tiny: HookedTransformer, whole: tuple[dict[str, bytes], float], outcomes: Counter[str], tmp_path: Path
) -> None:
    reference, took = whole
    pids = [started(tiny, tmp_path / "run", tmp_path / "cache") for _ in range(2)]
    assert [waited(pid, 10 * took + 60) for pid in pids] == [0, 0], log_of(tmp_path / "run").read_text()[-2000:]
    _same(tmp_path, reference)
    outcomes["both finished"] += 1


def test_of_two_processes_with_different_settings_on_one_folder_one_is_refused(
    tiny: HookedTransformer, whole: tuple[dict[str, bytes], float], outcomes: Counter[str], tmp_path: Path
) -> None:
    _, took = whole
    for number in rounds(1):
        place = tmp_path / str(number)
        place.mkdir()
        pids = [started(tiny, place / "run", place / "cache", samples=samples) for samples in (2, 3)]
        statuses = [waited(pid, 10 * took + 60) for pid in pids]
        assert sorted(status == 0 for status in statuses if status is not None) == [False, True]
        said = log_of(place / "run").read_text()
        assert "samples = " in said
        outcomes["one refused"] += 1


@pytest.fixture
def small_disk(tmp_path: Path, whole: tuple[dict[str, bytes], float]) -> Path:
    """A disk that has room for half of a study; skips where none can be mounted."""
    pages = sum(-(-len(data) // 4096) for name, data in whole[0].items() if not name.startswith("cache/"))
    place = tmp_path / "disk"
    place.mkdir()
    sized = f"size={2 * pages}k"  # a page has 4 kB
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", sized, "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_study_on_a_full_disk_says_so_and_ends_with_the_same_files_once_there_is_room(
    tiny: HookedTransformer, whole: tuple[dict[str, bytes], float], small_disk: Path
) -> None:
    reference, took = whole
    place, cache, log = small_disk / "place", small_disk.parent / "cache", small_disk.parent / "log"
    place.mkdir()
    assert waited(started(tiny, place / "run", cache, log=log), 10 * took) != 0
    said = log.read_text().strip().splitlines()[-1]
    assert re.search(rf"DataError: .*{place}.* cannot be written: .*space", said)
    there = tree(place / "run")
    assert there, "nothing was kept"
    assert [name for name, data in there.items() if reference[name] != data] == []
    assert [path for path in small_disk.rglob(".*") if path.is_file()] == [], "temporary files are left"
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert waited(started(tiny, place / "run", cache, log=log), 10 * took) == 0
    assert tree(place / "run") == {name: data for name, data in reference.items() if not name.startswith("cache/")}
