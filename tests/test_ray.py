"""Workers on Ray do what one process would do, also when they die; what of it needs no Ray is tested without."""

# ruff: noqa: F811 - pytest finds fixtures by their names

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch
from transformer_lens import HookedTransformer

import interp.study.work
from interp.cli.sharing import with_addresses
from interp.editing import Corpus, second_moments
from interp.errors import InterpWarning, ModelError, NumericalError, OptionError, WorkerError
from interp.facts.records import Fact
from interp.models.load import load_model
from interp.results.record import provenance
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study import editing_left, locating_left
from interp.study.editing import edit_cases
from interp.study.locating import locate_facts
from interp.study.on_ray.layout import Layout, layout_of
from interp.study.on_ray.moments import _parts, moments_by_workers
from interp.study.on_ray.worker import RayWorker, Step
from interp.study.settings import EditStudySettings, LocateSettings
from interp.study.workers import Job, Ledger
from tests.ray_jobs import Fails, Says
from tests.test_cli import CASES, MODEL, TINY, Call, cache, call, refused  # noqa: F401
from tests.test_documentation import undrawn  # noqa: F401
from tests.test_edit_study import AVERAGES
from tests.test_shards import TO_EDIT, bytes_of

LOCATING = LocateSettings(limit=3, samples=1, window=2, steps=1, noise=0.3)
EDITING = EditStudySettings(
    editors=("rome", "memit"), stride=3, context_kinds=((2, 1),), corpus=Corpus(tokens=1024), fluency_tokens=4
)


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of our own, bundles so small that there are several, and one thread, as the tests have."""
    place = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platformdirs, "user_cache_dir", lambda *_: place)
        patch.setattr(interp.study.work, "GROUP", 2)
        patch.setattr(interp.study.work, "BUNDLE", 3)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


# how many workers


@pytest.mark.parametrize(
    ("nodes", "threads", "count", "expected"),
    [
        ([(2, 0)], "", None, (1, 2, 0, 2)),
        ([(16, 0), (16, 0)], "", None, (8, 4, 0, 4)),
        ([(16, 0), (6, 0)], "2", None, (11, 2, 0, 2)),
        ([(16, 0), (6, 0)], "", 3, (3, 6, 0, 6)),
        ([(16, 0), (6, 0)], "1", 3, (3, 1, 0, 1)),
        ([(1, 0), (1, 0)], "8", None, (2, 1, 0, 1)),
        ([(16, 4), (4, 0), (8, 4)], "", None, (8, 2, 1, 2)),
        ([(16, 4), (4, 0)], "3", 2, (2, 4, 1, 3)),
        ([(2, 4)], "", None, (4, 0, 1, 1)),
    ],
)
def test_workers_fill_a_cluster(
    nodes: Any, threads: str, count: int | None, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    found = layout_of(nodes, count=count, device=None)
    assert (found.count, found.cpus, found.gpus, found.threads) == expected
    assert found.device == ("cuda" if found.gpus else "cpu")
    assert found.count * found.threads <= max(sum(cpus for cpus, _ in nodes), found.count)
    assert layout_of(nodes, count=1, device="cpu").gpus == 0


@pytest.mark.parametrize(
    ("nodes", "options", "said"),
    [
        ([(4, 0)], {"count": 5}, "workers: 5 do not fit: Ray has found 4 CPUs"),
        ([(4, 2)], {"count": 3}, "workers: 3 do not fit: Ray has found 2 GPUs"),
        ([(0, 0)], {}, "workers: 1 do not fit: Ray has found 0 CPUs"),
        ([(4, 0)], {"device": "cuda"}, "device 'cuda': none of the 1 machines that Ray has found has a GPU"),
        ([(4, 1)], {"device": "cuda:1"}, "device 'cuda:1' is one of this machine's: for workers it must be"),
        ([(4, 0)], {"count": 0}, "workers must be"),
    ],
)
def test_workers_that_do_not_fit(nodes: Any, options: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        layout_of(nodes, **{"count": None, "device": None, **options})


def test_how_a_layout_is_said() -> None:
    assert str(Layout(count=2, device="cpu", cpus=4, gpus=0, threads=4)) == "2 on cpu, 4 threads each"
    assert str(Layout(count=8, device="cuda", cpus=1, gpus=1, threads=1)) == "8 on cuda, 1 thread each"


# the command line


def test_an_address_may_be_left_away() -> None:
    assert with_addresses(["study", "--ray"]) == ["study", "--ray", "local"]
    assert with_addresses(["study", "--ray", "--limit", "1"]) == ["study", "--ray", "local", "--limit", "1"]
    for typed in (["study", "--ray", "auto", "--limit", "1"], ["study", "--ray=auto"], ["trace", "x"], []):
        assert with_addresses(typed) == typed


@pytest.mark.parametrize("command", ["figure1", "study", "reproduce"])
def test_without_ray_its_option_says_how_to_install_it(
    call: Call, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refused(call(command, "--ray"), "Ray is not installed: pip install 'interp[ray]', here and on every machine")


def test_options_that_do_not_go_together(call: Call) -> None:
    refused(call("study", "--ray", "--shard", "1/2"), "--shard and --ray exclude each other")
    refused(call("figure1", "--workers", "2"), "--workers would do nothing: it is for --ray")
    refused(call("figure1", "--from", "run", "--ray"), "--ray would do nothing")


def test_the_address_of_a_client_is_refused(tiny: HookedTransformer) -> None:
    pytest.importorskip("ray")
    from interp.study.on_ray.start import ray_workers

    load = partial(load_model, TINY)
    with (
        pytest.raises(OptionError, match="'ray://head:10001' is of a Ray client"),
        ray_workers(tiny, load, address="ray://head:10001"),
    ):
        pass


# a worker, without Ray


@pytest.fixture(scope="module")
def worker(tiny: HookedTransformer) -> RayWorker:
    """One that has begun, in this process."""
    one = RayWorker()
    place = one.begin(partial(load_model, f"{TINY}/."), "cpu", 1, replace(provenance(tiny), model=TINY))
    assert place.described.model == TINY
    assert str(place) == f"process {os.getpid()} on {place.host}"
    return one


def test_what_a_job_says_travels(worker: RayWorker, tiny: HookedTransformer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        steps = list(worker.do(Says()))
    name, (errors,) = steps[2]
    assert name == "leave_out"
    assert {unit: (type(error), str(error)) for unit, error in errors.items()} == {
        "0001-mlp": (NumericalError, "infinite")
    }
    assert steps[:2] == [
        ("warn", ("easily misread",)),
        ("log", ("interp.study.x", logging.WARNING, "computing 0001-mlp again")),
    ]
    assert steps[3:] == [("give", (interp.models.weights_hash(tiny),))]


def test_a_job_that_fails_ends_with_its_error(worker: RayWorker) -> None:
    ((name, (error, trace)),) = worker.do(Fails(expected=True))
    assert (name, type(error), str(error), trace) == ("fail", NumericalError, "the loss is not finite", "")
    ((name, (error, trace)),) = worker.do(Fails(expected=False))
    assert (name, type(error), str(error)) == ("fail", RuntimeError, "ZeroDivisionError: division by zero")
    assert "ray_jobs.py" in trace


class Crew:
    """Workers in this process, who do jobs the way those on Ray do."""

    def __init__(self, worker: RayWorker, count: int) -> None:
        self.worker, self.count, self.jobs = worker, count, []

    def __len__(self) -> int:
        return self.count

    def share(self, value: Any) -> Callable[[], Any]:
        return lambda: value

    def gather(self, jobs: Iterable[Job], keep: Callable[..., None], report: Callable[[float, str], None]) -> None:
        for job in jobs:
            self.jobs.append(job)
            step: Step
            for step in self.worker.do(job):
                name, values = step
                {"keep": keep, "report": report}[name](*values)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_second_moments_by_workers_are_those_of_one(
    worker: RayWorker, tiny: HookedTransformer, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = second_moments(tiny, [0, 2, 3, 5], Corpus(tokens=1024), cache=tmp_path / "alone")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(tmp_path / "cache"))
    crew, corpus = Crew(worker, count), Corpus(tokens=1024)
    found = moments_by_workers(crew, second_moments, tiny, [0, 2, 3, 5], corpus, lambda *_: None)
    parts = {1: [[0], [2, 3, 5]], 2: [[0], [2], [3, 5]], 8: [[0], [2], [3], [5]]}
    assert [list(job.layers) for job in crew.jobs] == parts[count]
    files = [bytes_of(tmp_path / name) for name in ("alone", "cache/second-moments")]
    assert files[0] == files[1]
    assert len(files[0]) == 5  # the text too
    assert list(found.moments) == [0, 2, 3, 5]
    for layer in found.moments:
        assert torch.equal(found.moments[layer], expected.moments[layer])
    moments_by_workers(crew, second_moments, tiny, [0, 1, 2], corpus, lambda *_: None)
    assert list(crew.jobs[-1].layers) == [1]  # the others are in the cache


def test_layers_in_parts() -> None:
    assert _parts([3, 4, 5, 6, 7], 2) == [[3, 4], [5, 6, 7]]
    assert _parts([3, 4], 5) == [[3], [4]]


# on Ray


def started() -> Any:
    """A cluster of two nodes; on a machine that is very busy Ray gives up its own start after half a minute."""
    from ray.cluster_utils import Cluster

    for _ in range(3):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=2, include_dashboard=False)
            cluster.other = cluster.add_node(num_cpus=1)
        except Exception:
            cluster.shutdown()
        else:
            return cluster
    pytest.skip("Ray does not start: the machine is too busy")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one machine."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'interp[ray]'")
    from interp.study.on_ray.start import imported_ray

    ray = imported_ray()
    cluster = started()
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def workers(cluster: Any, tiny: HookedTransformer) -> Iterator[Any]:
    """A worker on each node; one CPU is left."""
    from interp.study.on_ray.start import ray_workers

    before = signal.getsignal(signal.SIGTERM)
    with ray_workers(tiny, partial(load_model, TINY), address=cluster.address, count=2) as found:
        assert signal.getsignal(signal.SIGTERM) == before
        yield found
    assert found.places == []


@pytest.fixture(scope="module")
def locating(tiny: HookedTransformer, facts: list[Fact], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Called with a folder and workers; the folder that one process leaves."""
    do = partial(locate_facts, tiny, facts, settings=LOCATING)
    return do, bytes_of(do(tmp_path_factory.mktemp("located")).path)


@pytest.fixture
def at_the_third_record(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Something happens when three records are kept: whoever made the third is at work, and not all are done."""

    def happens(act: Callable[[], None]) -> None:
        put, kept = RunFolder.put, []

        def counted(self: RunFolder, *args: Any, **named: Any) -> None:
            put(self, *args, **named)
            kept.append(None)
            if len(kept) == 3:
                act()

        monkeypatch.setattr(RunFolder, "put", counted)

    return happens


def test_workers_leave_the_bytes_of_one_process(workers: Any, locating: Any, tiny: Any, tmp_path: Path) -> None:
    do, expected = locating
    steps: list[tuple[float, int, str]] = []
    run = do(tmp_path / "located", shard=workers, progress=lambda *step: steps.append(step))
    assert bytes_of(run.path) == expected
    assert locating_left(run) == []
    assert [done for done, *_ in steps] == sorted(done for done, *_ in steps)
    assert steps[-1] == (12, 12, "done")
    edit = partial(edit_cases, tiny, TO_EDIT, AVERAGES, settings=EDITING, noise=0.3)
    edited = edit(tmp_path / "edited", shard=workers)
    assert editing_left(edited) == []
    assert bytes_of(edited.path) == bytes_of(edit(tmp_path / "alone").path)


def test_an_error_comes_with_the_name_of_its_job(workers: Any, tmp_path: Path, caplog: Any) -> None:
    run = RunFolder.open(tmp_path, {})
    ledger = Ledger(run=run, skips=Skips.of(run), report=lambda *_: None, total=3)
    with pytest.raises(NumericalError, match=r"^the seventh unit: the loss is not finite$"):
        workers.do([Fails(expected=True)], ledger)
    with pytest.raises(
        RuntimeError, match=r"^the seventh unit: ZeroDivisionError: division by zero\n\nprocess .*"
    ) as it:
        workers.do([Fails(expected=False)], ledger)
    assert "ray_jobs.py" in str(it.value)
    with pytest.warns(InterpWarning, match="easily misread"):
        workers.do([Says()], ledger)
    assert "computing 0001-mlp again" in caplog.text
    assert ledger.skips.reasons == {"0001-mlp": "infinite"}
    assert ledger.done == 2


def test_workers_that_are_not_alike_are_refused(workers: Any) -> None:
    place = workers.places[0]
    with pytest.raises(ModelError, match=r"the weights of the worker process .* come from .* with weights 0 in"):
        workers._check(replace(place, described=replace(place.described, weights_hash="0")))
    versions = {**place.described.versions, "torch": "1.0"}
    with pytest.raises(WorkerError, match=r"the worker process .* has torch 1.0; expected "):
        workers._check(replace(place, described=replace(place.described, versions=versions)))


def test_a_worker_that_is_killed_is_replaced(
    workers: Any, locating: Any, at_the_third_record: Any, tmp_path: Path, caplog: Any
) -> None:
    do, expected = locating
    at_the_third_record(lambda: [os.kill(hand.place.process, signal.SIGKILL) for hand in workers._busy])
    assert bytes_of(do(tmp_path, shard=workers).path) == expected
    assert "died, its work is done again: " in caplog.text


@pytest.mark.usefixtures("undrawn")
def test_figure1_on_ray(workers: Any, cluster: Any, call: Call) -> None:
    fact = {name: CASES[0][name] for name in ("template", "subject", "target")}
    Path("facts.json").write_text(json.dumps([fact]), "utf-8")
    typed = ("figure1", *MODEL, "--facts", "facts.json", "--limit", "1", "--samples", "1", "--steps", "1")
    alone = call(*typed, "--out", "alone")
    done = call(*typed, "--out", "shared", "--ray", cluster.address, "--workers", "1")
    assert done.code == 0, done.err
    assert "workers: 1 on cpu, 1 thread each" in done.err
    assert (done.out, bytes_of(Path("shared"))) == (alone.out, bytes_of(Path("alone")))


def test_a_node_that_dies_is_done_without(
    workers: Any, cluster: Any, locating: Any, at_the_third_record: Any, tmp_path: Path
) -> None:
    do, expected = locating
    at_the_third_record(lambda: cluster.remove_node(cluster.other))
    run = do(tmp_path, shard=workers)
    assert bytes_of(run.path) == expected


def test_a_run_that_is_interrupted_goes_on_without_workers(
    workers: Any, locating: Any, at_the_third_record: Any, tmp_path: Path
) -> None:
    do, expected = locating

    def interrupt() -> None:
        raise KeyboardInterrupt

    at_the_third_record(interrupt)
    with pytest.raises(KeyboardInterrupt):
        do(tmp_path, shard=workers)
    there = bytes_of(tmp_path)
    assert 2 < len(there) < len(expected)
    assert len(workers) < 2  # who was at work is in the midst of what nobody waits for
    assert bytes_of(do(tmp_path).path) == expected
