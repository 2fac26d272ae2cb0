"""What workers on Ray gain, and when the driver is what limits them.

1. Efficiency: a few facts located by one worker with one thread, then by two.
2. Saturation: units that only sleep, done by 1, 2, 4 and 8 workers; each sends a record that the driver writes, or
   nothing. The units a second that no further worker raises are the driver's.

Starting workers is not in the times: they have begun, and loaded their model, before the first unit is given.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformer_lens import HookedTransformer

from benchmarks.machine import console, heading, matmul_rate, seconds
from benchmarks.records import TINY, made_facts, trace
from interp.facts.fact_files import load_facts
from interp.models.load import load_model
from interp.results.run_folder import RunFolder
from interp.results.skips import Skips
from interp.study.locating import locate_facts
from interp.study.on_ray.pool import RayWorkers
from interp.study.on_ray.start import LOCAL, joined, ray_workers
from interp.study.settings import LocateSettings
from interp.study.workers import Bench, Here, Ledger, Workers


@dataclass(frozen=True)
class Sleeps:
    """A unit that computes nothing."""

    place: int
    pause: float
    record: bool
    label: str = "asleep"
    size: int = 1

    def __call__(self, bench: Bench) -> None:
        time.sleep(self.pause)
        if self.record:
            bench.keep(f"{self.place:05d}", trace(made_facts(1)[0], 0, "resid", bench.described))


def all_begun(workers: RayWorkers, count: int) -> None:
    """Give jobs until every worker has come to one."""
    while len(workers) < count:
        workers.ask(lambda _: time.sleep(0.2))


def efficiency(args: argparse.Namespace, load: Callable[..., HookedTransformer]) -> None:
    """One worker of one thread against two, the choice of the facts included, which one of them makes."""
    model, facts = load(device="cpu"), load_facts("builtin")
    settings = LocateSettings(limit=args.facts, samples=args.samples, steps=args.steps, noise=0.1)
    console.print(heading("cpu", args.model, matmul_rate("cpu")))
    took: dict[int, float] = {}
    for count in (1, 2):
        with ray_workers(model, load, count=count, device="cpu") as workers, tempfile.TemporaryDirectory() as folder:
            all_begun(workers, count)
            took[count] = seconds(partial(locate_facts, model, facts, folder, settings, shard=workers), "cpu")[0]
        console.print(f"{workers_said(count)}: {took[count]:.1f} s")
    console.print(f"efficiency of two workers: {took[1] / took[2] / 2:.0%}")


def saturation(args: argparse.Namespace) -> None:
    """Units a second; the first row is without Ray."""
    load = partial(load_model, str(TINY))
    model = load(device="cpu")
    report(args, "no Ray", Here(model), 1)
    for count in args.workers:
        with ray_workers(model, load, count=count, device="cpu") as workers:
            all_begun(workers, count)
            report(args, workers_said(count), workers, count)


def report(args: argparse.Namespace, who: str, workers: Workers, count: int) -> None:
    for record in (False, True):
        jobs = (Sleeps(place, args.pause / 1000, record) for place in range(args.units))
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder.open(Path(folder) / "run", {})
            ledger = Ledger(run=run, skips=Skips.of(run), report=lambda *_: None, total=args.units)
            took = seconds(partial(workers.do, jobs, ledger), "cpu")[0]
        rate, ideal = args.units / took, count * 1000 / args.pause
        what = "each with a record" if record else "nothing is kept"
        console.print(f"{who}, {what}: {rate:.0f} units/s, {rate / ideal:.0%} of {ideal:.0f}")


def workers_said(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="what is located on")
    parser.add_argument("--facts", type=int, default=2)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="that do units which sleep")
    parser.add_argument("--units", type=int, default=400, help="which sleep")
    parser.add_argument("--pause", type=float, default=5.0, help="milliseconds that each sleeps")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with joined(LOCAL, cpus=max(args.workers)):  # however few cores there are: what sleeps takes none
        if args.facts:
            efficiency(args, partial(load_model, args.model))
        saturation(args)


if __name__ == "__main__":
    main()
