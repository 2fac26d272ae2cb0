"""What the commands share: option types, consoles, loading, progress, run folders."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interp.runs import RunFolder
    from interp.study import LocateSettings

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Where does a language model keep a fact, and where should one edit it? For any model, with error bars.",
)
# texts of users and models are printed as they are: no markup, no emoji names
screen = Console(markup=False, emoji=False, highlight=False)
messages = Console(stderr=True, markup=False, emoji=False, highlight=False)

Model = Annotated[str, typer.Option(help="smollm2-135m (embedded), a Hugging Face name or a local folder.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; CUDA when present by default.")]
DType = Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts and nothing else.")]
Facts = Annotated[str, typer.Option(help="builtin, a .json/.jsonl file (also known_1000.json), or hub:OWNER/NAME.")]
Subject = Annotated[str, typer.Option(help="The subject as it stands in the prompt.")]
Target = Annotated[str | None, typer.Option(help="The answer; the model's own top answer by default.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; runs/NAME by default.")]
Samples = Annotated[int, typer.Option(help="Noise samples.")]
Window = Annotated[int, typer.Option(help="Layers restored together for mlp and attn.")]
Noise = Annotated[str, typer.Option(help="Standard deviation, or 3sigma of the subject embeddings.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Corruption = Annotated[str, typer.Option(help="gaussian, uniform or symmetric (another subject).")]
Steps = Annotated[int, typer.Option(help="Quadrature nodes n.")]
Rule = Annotated[str, typer.Option(help="riemann (the paper's) or gauss-legendre.")]
Cases = Annotated[str, typer.Option(help="builtin, CounterFact, ZsRE or KnowEdit (.json), or hub:OWNER/NAME.")]
Method = Annotated[str, typer.Option(help="rome, r-rome, memit, pmet, ft-l or kn.")]
Limit = Annotated[int, typer.Option(help="How many facts that the model knows; 0 for all.")]
FluencyTokens = Annotated[int, typer.Option(help="Tokens sampled for fluency.")]
Figures = Annotated[Path, typer.Option(help="Folder for the figures.")]
Width = Annotated[str, typer.Option(help="column, page or slide.")]


def fail(message: str) -> NoReturn:
    """One line on stderr and exit code 2."""
    messages.print(Text("error:", style="bold red"), " ".join(message.split()), soft_wrap=True)
    raise SystemExit(2) from None


def locate_settings(**options: Any) -> LocateSettings:
    """Checked settings of the locating part; a limit of 0 means all."""
    from interp.errors import OptionError
    from interp.study import LocateSettings

    if options["limit"] < 0:
        raise OptionError(f"limit must be 0 (all) or more, got {options['limit']}")
    options["limit"] = options["limit"] or None
    return LocateSettings(**options)


def load(name: str, device: str | None, dtype: str) -> HookedTransformer:
    """The model, with a dtype by name."""
    import torch

    from interp.models import load_model
    from interp.options import check_choice

    check_choice("dtype", dtype, ("float32", "bfloat16", "float16"))
    return load_model(name, dtype=getattr(torch, dtype), device=device)


def typed_fact(prompt: str, subject: str, target: str | None, relation: str | None = None) -> Any:
    """A fact as one types it: the target without its leading space."""
    from interp.errors import FactError
    from interp.facts import Fact

    if target is not None and not target.strip():
        raise FactError("the target is empty")
    if target is not None and not target[0].isspace():
        target = " " + target  # as one types it; the README says so
    return Fact.from_prompt(prompt.rstrip(), subject, target, relation)


def single_run(
    kind: str, network: HookedTransformer, settings: dict[str, Any], out: Path | None
) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of a single result, found fit before the work; its settings are written with the result."""
    from dataclasses import asdict

    from interp.results import provenance
    from interp.runs import RunFolder

    settings = {"command": kind, **settings, "provenance": asdict(provenance(network))}
    run = RunFolder(out or Path("runs") / f"{kind}-{digest(settings)}")
    run.agrees(settings)
    check_writable(run.path)
    return run, settings


def noise_level_of(text: str) -> Any:
    """A number, or 3sigma."""
    from interp.errors import OptionError

    if text == "3sigma":
        return text
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"noise must be a positive number or '3sigma', got {text!r}") from None


def check_width(width: str) -> None:
    """Refuse a width that is no preset."""
    from interp.options import check_choice
    from interp.plots import WIDTHS

    check_choice("width", width, tuple(WIDTHS))


def check_writable(folder: Path | None) -> None:
    """Find out before the long work, not after it."""
    if folder is None:
        return
    from interp.results import write_atomically

    probe = folder / ".interp-probe"
    write_atomically(probe, b"")
    probe.unlink()


@contextmanager
def bar(label: str) -> Iterator[Callable[..., None]]:
    """A progress bar with the time left on a terminal; elsewhere one line per finished step."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if not messages.is_terminal:
        seen: list[str] = []

        def lines(done: float, total: float, text: str = "") -> None:
            if text and seen[-1:] != [text]:
                seen.append(text)
                messages.print(f"[{done:.0f}/{total:.0f}] {text}", soft_wrap=True)

        yield lines
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, transient=True, speed_estimate_period=300) as progress:
        task = progress.add_task(label, total=None)

        def advance(done: float, total: float, text: str = "") -> None:
            progress.update(task, completed=done, total=total, description=(text or label)[:60])

        yield advance


def print_json(data: Any) -> None:
    """For scripts."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def slug(text: str) -> str:
    """A name fit for a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() or "facts"


def digest(settings: Any) -> str:
    """Eight digits that tell settings apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
