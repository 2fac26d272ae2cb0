"""What the commands share: option types, what was typed, loading, run folders."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.console import messages
from interp.cli.progress import bar
from interp.editing.methods import EDITORS
from interp.errors import OptionError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from typer import Context

    from interp.facts.records import Fact
    from interp.study.settings import LocateSettings
else:
    Context = typer.Context.__base__  # the class of what commands are called with

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Where does a language model keep a fact, and where should one edit it? For any model, with error bars.",
)


def _home(value: Any) -> Any:
    """A path with ``~`` filled in, also where no shell does (``--out=~/x``)."""
    if not str(value).startswith("~"):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError:
        raise OptionError(f"{value}: there is no such user") from None


def path_option(*names: str, help: str) -> Any:
    """An option that takes a path, or a name that is none."""
    return typer.Option(*names, help=help, callback=_home)


def path_argument(*, help: str) -> Any:
    """An argument that takes a path."""
    return typer.Argument(help=help, callback=_home)


Model = Annotated[
    str, path_option(help="smollm2-135m (embedded), a Hugging Face name, a local folder, a GGUF file or an adapter.")
]
Base = Annotated[str | None, path_option(help="Of an adapter: its base; the one that it names by default.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; CUDA when present by default.")]
DType = Annotated[str, typer.Option("--dtype", help="float32, bfloat16, float16, or auto: the checkpoint's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts and nothing else.")]
Facts = Annotated[str, path_option(help="builtin, a .json/.jsonl file (also known_1000.json), or hub:OWNER/NAME.")]
Prompt = Annotated[str, typer.Argument(help="It ends right before the answer; {} may stand for the subject.")]
Subject = Annotated[str, typer.Option(help="The subject as it stands in the prompt.")]
Target = Annotated[str | None, typer.Option(help="The answer; the model's own top answer by default.")]
ExactTarget = Annotated[
    bool, typer.Option("--exact-target", help="Take the target as it is typed: add no space before it.")
]
Occurrence = Annotated[
    int | None, typer.Option(help="Which place of the subject in the prompt, from 0; the first by default.")
]
Out = Annotated[Path | None, path_option(help="Run folder; runs/NAME by default.")]
Samples = Annotated[int, typer.Option(help="Noise samples.")]
Window = Annotated[int, typer.Option(help="Layers restored together for mlp and attn.")]
Noise = Annotated[str, typer.Option(help="Standard deviation, or 3sigma of the subject embeddings.")]
Seed = Annotated[int, typer.Option(help="Seed of the noise.")]
Corruption = Annotated[str, typer.Option(help="gaussian, uniform or symmetric (another subject).")]
Steps = Annotated[int, typer.Option(help="Quadrature nodes n.")]
Rule = Annotated[str, typer.Option(help="riemann (the paper's) or gauss-legendre.")]
Cases = Annotated[str, path_option(help="builtin, CounterFact, ZsRE or KnowEdit (.json), or hub:OWNER/NAME.")]
Method = Annotated[str, typer.Option(help=f"{', '.join(tuple(EDITORS)[:-1])} or {tuple(EDITORS)[-1]}.")]
Limit = Annotated[int | None, typer.Option(help="How many facts that the model knows, 0 for all; 12 by default.")]
FluencyTokens = Annotated[int, typer.Option(help="Tokens sampled for fluency.")]
Figures = Annotated[Path, path_option(help="Folder for the figures.")]
Width = Annotated[str, typer.Option(help="column, page or slide.")]


def given(context: Context, *names: str) -> list[str]:
    """Of these parameters the options that were typed, as one types them."""
    sources = {name: context.get_parameter_source(name) for name in names}
    typed = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    return [name if name == "prompt" else f"--{name.replace('_', '-')}" for name in typed]


def refuse_given(context: Context, why: str, *names: str) -> None:
    """A setting that cannot act is refused, as one would believe that it did.

    Raises:
        OptionError: Naming the options, and why they do nothing.
    """
    found = given(context, *names)
    if found:
        raise OptionError(f"{', '.join(found)} would do nothing: {why}")


def names_typed(text: str) -> tuple[str, ...]:
    """Names by commas."""
    return tuple(name.strip() for name in text.split(","))


def count(name: str, value: int | None, default: int | None) -> int | None:
    """How many, where 0 means all (None) and nothing means a default.

    Raises:
        OptionError: If it is negative.
    """
    if value is not None and value < 0:
        raise OptionError(f"{name} must be 0 (all) or more, got {value}")
    return default if value is None else value or None


def locate_settings(*, limit: int | None = None, default_limit: int | None = 12, **options: Any) -> LocateSettings:
    """Checked settings of the locating part; a limit of 0 means all."""
    from interp.study.settings import LocateSettings

    return LocateSettings(limit=count("limit", limit, default_limit), **options)


def load(name: str, device: str | None, dtype: str, base: str | None = None) -> HookedTransformer:
    """The model, with a dtype by name."""
    with bar(f"loading {name}"):
        import torch

        from interp.models.load import load_model
        from interp.options import check_choice

        check_choice("dtype", dtype, ("float32", "bfloat16", "float16", "auto"))
        asked: Any = "auto" if dtype == "auto" else getattr(torch, dtype)
        return load_model(name, dtype=asked, device=device, **({} if base is None else {"base": base}))


def typed_answer(prompt: str, target: str, exact: bool, name: str = "target") -> str:
    """The target as it continues the prompt: with the space that its language puts before it, or as it was typed."""
    from interp.errors import FactError
    from interp.facts.records import spaced_answer

    if not target.strip():
        raise FactError(f"the {name} of {prompt!r} is empty")
    return target if exact else spaced_answer(prompt, target)


def typed_fact(
    prompt: str,
    subject: str,
    target: str | None,
    relation: str | None = None,
    *,
    exact: bool = False,
    occurrence: int | None = None,
) -> Fact:
    """A fact as one types it: ``{}`` may stand for the subject, the target needs no space before it.

    Raises:
        OptionError: If an occurrence is chosen where ``{}`` says where the subject is, or an exact target is wanted
            and none is given.
    """
    from interp.facts.records import Fact

    template = prompt.rstrip()
    if target is None and exact:
        raise OptionError("--exact-target would do nothing: no --target is given")
    if "{}" not in template:
        fact = Fact.from_prompt(template, subject, None, relation, occurrence=occurrence)
    elif occurrence is not None:
        raise OptionError("--occurrence would do nothing: {} says where the subject is")
    else:
        fact = Fact(template=template, subject=subject, relation=relation)
    if occurrence is not None:
        messages.print(f"subject {subject!r}, occurrence {occurrence}: {fact.template}", soft_wrap=True)
    return fact if target is None else replace(fact, target=typed_answer(fact.prompt, target, exact))


def target_text(network: HookedTransformer, fact: Fact) -> str:
    """What the target became, at the end of a line: ``; target ' Rome' = [' Rome']``; nothing if there is none."""
    from interp.models.tokens import tokenize

    if fact.target is None:
        return ""
    pieces = ", ".join(map(repr, tokenize(network, fact).target_strings))
    return f"; target {fact.target!r} = [{pieces}]"


def noise_level_of(text: str) -> Any:
    """A number, or 3sigma."""
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
    from interp.results.record import write_atomically

    probe = folder / ".interp-probe"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)  # another process may have done so


def slug(text: str) -> str:
    """A name fit for a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-").lower() or "facts"


def digest(settings: Any) -> str:
    """Eight digits that tell settings apart."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
