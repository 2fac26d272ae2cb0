"""Commands that list: facts (which ones the model knows) and models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from interp.cli.common import Base, Device, DType, Facts, Json, Model, app, load
from interp.cli.console import print_json, screen
from interp.cli.progress import bar
from interp.errors import DataError

if TYPE_CHECKING:
    from interp.locate.knowledge import TopAnswer


@app.command("facts")
def list_facts(
    model: Model = "smollm2-135m",
    base: Base = None,
    facts: Facts = "builtin",
    relation: Annotated[str | None, typer.Option(help="Only this relation.")] = None,
    known: Annotated[bool, typer.Option("--known", help="Only facts the model knows.")] = False,
    device: Device = None,
    dtype: DType = "float32",
    as_json: Json = False,
) -> None:
    """Which facts the model knows, with the probability of the right answer."""
    from interp.facts.fact_files import load_facts
    from interp.locate.knowledge import top_answers

    chosen = [fact for fact in load_facts(facts) if relation in (None, fact.relation)]
    if not chosen:
        raise DataError(f"{facts}: no fact has the relation {relation!r}")
    network = load(model, device, dtype, base)
    with bar("asking") as advance:
        found = top_answers(network, chosen, progress=advance)
    shown = [answer for answer in found if answer.known or not known]
    if as_json:
        print_json([_answer_row(answer) for answer in shown])
        return
    from rich.table import Table

    table = Table("", "prompt", "expected", "p", "top answer", "p", box=None)
    for answer in shown:
        table.add_row(
            Text("✓", style="green") if answer.known else Text("·", style="red"),
            answer.fact.prompt,
            answer.expected,
            f"{answer.probability:.3f}",
            answer.top_answer,
            f"{answer.top_probability:.3f}",
        )
    screen.print(table)
    screen.print(
        f"{sum(a.known for a in found)} of {len(found)} known: the first token of the target is the top answer"
    )


@app.command("models")
def list_models(as_json: Json = False) -> None:
    """Names to start from; any model of these families works, by name or folder."""
    from interp.models.hub import KNOWN_MODELS

    if as_json:
        print_json(dict(KNOWN_MODELS))
        return
    from rich.table import Table

    table = Table("name", "what it is", box=None)
    for name, description in KNOWN_MODELS.items():
        table.add_row(name, description)
    screen.print(table)


def _answer_row(answer: TopAnswer) -> dict[str, Any]:
    return {
        "prompt": answer.fact.prompt,
        "subject": answer.fact.subject,
        "target": answer.fact.target,
        "relation": answer.fact.relation,
        "known": answer.known,
        "probability": answer.probability,
        "top_answer": answer.top_answer,
        "top_probability": answer.top_probability,
    }
