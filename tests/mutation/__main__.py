"""How many small changes to the package do its tests notice?

    python -m tests.mutation --count 150 --seed 0
    python -m tests.mutation --modules sweep corruption --count 40 --seed 2
    python -m tests.mutation --count 150 --seed 0 --again     the mutants that survived, once more

Mutants are drawn at random from the modules of ``parts.py``, each is run against those tests of its part that reach
its line, and the report (JSON lines) gets a line for each. A run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from tests.mutation.mutants import Mutant, count, mutant
from tests.mutation.parts import PARTS
from tests.mutation.running import PACKAGE, ROOT, Reach, measured_reach, run_mutant

logger = logging.getLogger("mutation")


def main() -> None:
    """Draw mutants, run them, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="how many mutants are drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--modules", nargs="+", default=list(PARTS), help="which modules", metavar="MODULE")
    parser.add_argument("--report", type=Path, help="JSON lines, one a mutant; default mutants-SEED.jsonl in runs/")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--within", type=float, default=math.inf, help="seconds of tests for each; all if left out")
    parser.add_argument("--again", action="store_true", help="run those again that survived, with all of their tests")
    options = parser.parse_args()
    os.chdir(ROOT)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    report = options.report or ROOT / "runs" / f"mutants-{options.seed}.jsonl"
    report.parent.mkdir(parents=True, exist_ok=True)

    sources = {module: _path(module).read_text("utf-8") for module in options.modules}
    drawn = draw(sources, options.count, options.seed)
    done = _read(report)
    # bytecode of what is not changed may be kept, but not beside the sources
    cache = Path(tempfile.gettempdir()) / f"mutation-{os.getuid()}"
    cache.mkdir(exist_ok=True)
    sys.pycache_prefix = str(cache / "bytecode")
    reach = _reach(options.modules, cache)

    workers = []
    for job in range(options.jobs):
        worker = os.fork()
        if worker == 0:
            run(drawn[job :: options.jobs], sources, reach, done, report, options.within, options.again)
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        os.waitpid(worker, 0)
    done = _read(report)
    keys = {_key(module, mutant(sources[module], index)) for module, index in drawn}
    summarise([entry for key, entry in done.items() if key in keys])


def run(
    drawn: list[tuple[str, int]],
    sources: dict[str, str],
    reach: Reach,
    done: dict[str, dict[str, Any]],
    report: Path,
    within: float,
    again: bool,
) -> None:
    """Run mutants that are not in the report, or survived, one after the other, and write a line for each."""
    for module, index in drawn:
        one = mutant(sources[module], index)
        key = _key(module, one)
        if key in done and not (again and done[key]["result"] == "survived"):
            continue
        began = time.monotonic()
        tests = reach.tests(str(_path(module)), one.reach, PARTS[module])
        until = [0.0, *itertools.accumulate(reach.seconds[test] for test in tests)]
        all_of_them = len(tests)
        tests = [test for test, begins in zip(tests, until[:-1], strict=True) if again or begins < within]
        seconds = until[len(tests)]
        result, test = run_mutant(str(_path(module)), one.source, tests, seconds) if tests else ("survived", "")
        entry = {
            "module": module,
            "line": one.line,
            "operator": one.operator,
            "before": one.before,
            "after": one.after,
            "result": result,
            "test": test,
            "n_tests": len(tests),
            "n_reach": all_of_them,
            "seconds": round(time.monotonic() - began, 1),
            "key": key,
        }
        with report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        logger.info("%s:%d  %s  %s", module, one.line, result, test)


def draw(sources: dict[str, str], number: int, seed: int) -> list[tuple[str, int]]:
    """Mutants at random from all of the modules' alike: the module, and which of its mutants."""
    every = [(module, index) for module, source in sources.items() for index in range(count(source))]
    return random.Random(seed).sample(every, min(number, len(every)))


def summarise(entries: list[dict[str, Any]]) -> None:
    """Tell how many survive, with a 95% interval (Wilson 1927), and which."""
    results = Counter(entry["result"] for entry in entries)
    n, survived = len(entries), results["survived"]
    for entry in entries:
        if entry["result"] == "survived":
            what = f"{entry['before']}\n      -> {entry['after']}"
            logger.info("\n%s:%d (%s)\n      %s", entry["module"], entry["line"], entry["operator"], what)
    low, high = wilson(survived, n)
    logger.info(
        "\n%d mutants: %d killed, %d timed out, %d survived: %.1f%% [%.1f, %.1f]",
        *(n, results["killed"], results["timeout"], survived, 100 * survived / max(n, 1), 100 * low, 100 * high),
    )


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95% interval of a share."""
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    centre, spread = hits / n + z * z / (2 * n), z * math.sqrt(hits * (n - hits) / n**3 + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n)), min(1.0, (centre + spread) / (1 + z * z / n))


def _path(module: str) -> Path:
    return Path(PACKAGE) / f"{module.replace('.', '/')}.py"


def _key(module: str, one: Mutant) -> str:
    """What a mutant is: its module as a whole, so that it is run again when something else there changed."""
    return hashlib.sha256(f"{module}\n{one.source}".encode()).hexdigest()[:16]


def _read(report: Path) -> dict[str, dict[str, Any]]:
    if not report.exists():
        return {}
    return {entry["key"]: entry for entry in map(json.loads, report.read_text("utf-8").splitlines())}


def _reach(modules: list[str], cache: Path) -> Reach:
    """Which test reaches which line; measured anew if the package, the fixtures or the test file changed."""
    prefixes = tuple(sorted({file for module in modules for file in PARTS[module]}))
    content = hashlib.sha256()
    for path in sorted([*(ROOT / "interp").rglob("*.py"), ROOT / "tests" / "conftest.py"]):
        content.update(path.read_bytes())
    files = sorted(path for path in (ROOT / "tests").glob("test_*.py") if path.stem.startswith(prefixes))
    paths = {str(_path(module)) for module in PARTS}
    return measured_reach(files, paths, content.hexdigest(), cache)


if __name__ == "__main__":
    main()
