"""Memory and time: batches stay within their limit, and what cannot fit or takes hours says so before it starts."""

import sys
from functools import partial

import pytest
import torch

from interp.editing import RomeConfig, target_values
from interp.engine import batches
from interp.engine.base_runs import run_bytes
from interp.engine.pairs import clean_and_corrupted
from interp.errors import InterpWarning, OptionError
from interp.facts.records import EditRequest, Fact
from interp.locate.methods.attribution import attribute
from interp.locate.methods.causal_trace import causal_trace

MANY = {"samples": 12, "noise": 0.33}


@pytest.fixture
def sizes(tiny):
    """How many tokens each block ran on at once."""
    seen = []
    hooks = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[:2])) for block in tiny.blocks]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("state", ["resid", "mlp", "attn"])
@pytest.mark.parametrize("limit", [30])
def test_no_block_runs_on_more_tokens_than_the_limit(tiny, facts, sizes, state, limit):
    whole = causal_trace(tiny, facts[0], state=state, window=2, sever=None if state != "resid" else "mlp", **MANY)
    assert max(rows * tokens for rows, tokens in sizes) > 100
    sizes.clear()
    steps = []
    split = causal_trace(
        tiny,
        facts[0],
        state=state,
        window=2,
        sever=None if state != "resid" else "mlp",
        max_batch_tokens=limit,
        progress=lambda *step: steps.append(step),
        **MANY,
    )
    assert max(rows * tokens for rows, tokens in sizes) <= limit
    torch.testing.assert_close(split.scores, whole.scores, atol=1e-6, rtol=0)
    torch.testing.assert_close(split.standard_error, whole.standard_error, atol=1e-6, rtol=0)
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_long_prefixes_count_too(tiny, sizes):
    fact = Fact(template="a b c d e f g h i j k l m n o p q r s t u v w x y z {} is", subject="Norway", target=" Oslo")
    causal_trace(tiny, fact, samples=40, noise=0.33, max_batch_tokens=240)
    short = [rows for rows, tokens in sizes if tokens == 1]
    assert max(short) <= 240 // (len("abcdefghijklmnopqrstuvwxyz") // batches.PREFIX_SHARE)
    assert batches.batch_cost(12, 12) == 12
    assert batches.batch_cost(1, 12) == 1 + 11 // batches.PREFIX_SHARE


def test_attribution_stays_within_the_limit(tiny, facts, sizes):
    whole = attribute(tiny, facts[0], tokens="all", steps=7)
    assert max(rows * tokens for rows, tokens in sizes) > 100
    sizes.clear()
    split = attribute(tiny, facts[0], tokens="all", steps=7, max_batch_tokens=40)
    assert max(rows * tokens for rows, tokens in sizes) <= 40
    torch.testing.assert_close(split.scores, whole.scores, atol=1e-7, rtol=1e-5)


def test_running_out_of_memory_in_any_part_halves_the_batch(tiny, facts, caplog):
    """The base run, the first block of a window and the sweeps alike."""
    expected = causal_trace(tiny, facts[0], state="mlp", window=2, **MANY)

    def refuse(_, args):
        if args[0].shape[0] * args[0].shape[1] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hooks = [block.register_forward_pre_hook(refuse) for block in tiny.blocks]
    try:
        found = causal_trace(tiny, facts[0], state="mlp", window=2, **MANY)
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-6, rtol=0)
    assert "going on with max_batch_tokens=32" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError("Unable to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
    ],
)
def test_every_kind_of_running_out_is_known(error):
    def work(limit):
        if limit > 3:
            raise error
        return limit

    assert batches.halving(work, 8) == 2
    with pytest.raises(OptionError, match="out of memory with max_batch_tokens=1 already"):
        batches.halving(lambda limit: work(9), 8)


def test_what_cannot_fit_is_refused_before_it_starts(tiny, facts, monkeypatch, sizes):
    needed = []
    monkeypatch.setattr(batches, "free_bytes", lambda device: 10_000)
    for work, said in (
        (lambda: causal_trace(tiny, facts[0], **MANY), "fewer samples"),
        (lambda: clean_and_corrupted(tiny, facts[0], **MANY), "fewer samples"),
        (lambda: attribute(tiny, facts[0]), "a shorter prompt"),
    ):
        with pytest.raises(OptionError, match=rf"needs about .* GB of memory and 1e-05 GB are free: take {said}"):
            work()
    assert sizes == []
    monkeypatch.setattr(
        batches, "free_bytes", lambda device: needed.append(device)
    )  # nothing tells: nothing is refused
    causal_trace(tiny, facts[0], **MANY)
    assert needed


def test_free_memory_is_the_least_that_anything_leaves(monkeypatch):
    files = {
        "/proc/meminfo": ["MemTotal: 100 kB", "MemAvailable:   5000 kB"],
        "/sys/fs/cgroup/memory.max": ["4000000"],
        "/sys/fs/cgroup/memory.current": ["3000000"],
        "/sys/fs/cgroup/memory.stat": ["anon 5", "inactive_file 500000"],
    }
    monkeypatch.setattr(batches, "_lines", lambda path: files.get(path, []))
    cpu = torch.device("cpu")
    assert batches.free_bytes(cpu) == 1_500_000
    for name, lines in (("max", ["max"]), ("max", []), ("current", [])):  # no limit, or one of the two cannot be read
        kept = dict(files)
        files[f"/sys/fs/cgroup/memory.{name}"] = lines
        assert batches.free_bytes(cpu) == 5000 * 1024
        files.update(kept)
    files["/proc/meminfo"] = ["MemAvailable: 1000 kB"]
    assert batches.free_bytes(cpu) == 1000 * 1024
    files.clear()
    assert batches.free_bytes(cpu) is None
    assert batches.free_bytes(torch.device("meta")) is None
    monkeypatch.undo()
    found = batches.free_bytes(cpu)
    assert found is None or found > 2**20


def test_what_takes_hours_says_so_before_it_starts(tiny, facts, monkeypatch):
    monkeypatch.setattr(batches, "MEASURED_FROM", 0)
    monkeypatch.setattr(batches, "LONG", 0)
    monkeypatch.setattr(batches, "_seconds_per_token", lambda *_: 3.0)
    done = []
    with pytest.warns(InterpWarning, match=r"the trace of \d+ tokens with 12 samples .*will take about .* h here"):
        causal_trace(tiny, facts[0], progress=lambda *_: done.append(1), **MANY)
    with pytest.warns(InterpWarning, match=r"attribution over \d+ tokens with 3 steps will take about"):
        attribute(tiny, facts[0], steps=3)
    monkeypatch.setattr(batches, "LONG", 1e9)
    causal_trace(tiny, facts[0], **MANY)


def test_the_time_is_measured_on_the_model_itself(tiny, monkeypatch, sizes):
    monkeypatch.setattr(batches, "MEASURED_FROM", 0)
    monkeypatch.setattr(batches, "LONG", 0)
    with pytest.warns(InterpWarning):
        batches.warn_if_long("it", tiny, 1e9, 10, 4096, stacklevel=1)
    assert [tuple(size) for size in sizes] == [(51, 10), (51, 10)]


def test_a_trace_foretells_its_own_memory(tiny, facts, monkeypatch):
    """What the runs leave must hold the scores and, for windows, what enters them."""
    foretold = {}

    def note(what, n_bytes, device, advice):
        foretold[what] = n_bytes

    monkeypatch.setattr(sys.modules["interp.locate.methods.causal_trace_pool"], "check_fits", note)
    traces = {state: causal_trace(tiny, facts[0], state=state, **MANY) for state in ("resid", "mlp")}
    n_tokens, first = len(traces["resid"].tokens), traces["resid"].subject_span[0]
    what = f"the trace of {n_tokens} tokens with 12 samples"
    scores = 4 * n_tokens * tiny.cfg.n_layers * 12
    entering = run_bytes(tiny, 12, n_tokens - first, ())
    assert foretold[what] == 3 * scores + entering  # of the last trace, that of MLP outputs
    causal_trace(tiny, facts[0], **MANY)
    assert foretold[what] == 3 * scores


@pytest.mark.parametrize("limit", [40, 60])
def test_optimising_a_target_stays_within_the_limit(tiny, facts, limit):
    """Rows with long contexts, up to the edited layer and in the prefixes above it: no pass is larger.

    With gradients all passes of a request are there until the last one: to cut them would bound nothing.
    """
    seen = []

    def note(block, args):
        if not torch.is_grad_enabled():
            seen.append(args[0].shape[:2].numel())

    requests = [EditRequest(facts[0], new_target=" Rome"), EditRequest(facts[1], new_target=" Oslo")]
    contexts = (("{}",), ("In the year that followed the war. {}", "They said that it was so. {}", "Then. {}"))
    config = RomeConfig(layer=2, steps=2)
    run = partial(target_values, tiny, requests, contexts, layer=2, sites=("mlp_out",), config=config)
    hooks = [block.register_forward_pre_hook(note) for block in tiny.blocks]
    try:
        whole = run(max_batch_tokens=10_000)
        largest = max(seen)
        seen.clear()
        split = run(max_batch_tokens=limit)
    finally:
        for hook in hooks:
            hook.remove()
    assert max(seen) <= limit < largest
    for one, other in zip(split, whole, strict=True):
        torch.testing.assert_close(one.value("mlp_out"), other.value("mlp_out"), atol=1e-4, rtol=1e-4)
