"""The command locate: one fact under any of the locators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import (
    Base,
    Context,
    Device,
    DType,
    ExactTarget,
    Facts,
    Json,
    Model,
    Noise,
    Occurrence,
    Out,
    Prompt,
    Rule,
    Samples,
    Seed,
    Steps,
    Subject,
    Target,
    Window,
    app,
    load,
    names_typed,
    noise_level_of,
    refuse_given,
    target_text,
    typed_fact,
)
from interp.cli.console import messages, print_json, screen
from interp.cli.one_fact import show_map, single_run, warn_of_letters
from interp.cli.precision import MatmulPrecision, multiplying
from interp.cli.progress import bar
from interp.locate.methods import LOCATORS, locator_named
from interp.system.tables import check_names

if TYPE_CHECKING:
    from pathlib import Path

    from interp.results.mapped import MapRecord

ALL = ",".join(LOCATORS)
Locators = Annotated[str, typer.Option(help=f"By commas, of {', '.join(LOCATORS)}.")]
SETTINGS = ("noise", "samples", "window", "seed", "steps", "rule")


@app.command()
@multiplying
def locate(
    context: Context,
    prompt: Prompt,
    subject: Subject,
    target: Target = None,
    exact_target: ExactTarget = False,
    occurrence: Occurrence = None,
    locators: Locators = ALL,
    model: Model = "smollm2-135m",
    base: Base = None,
    window: Window = 10,
    samples: Samples = 10,
    noise: Noise = "3sigma",
    seed: Seed = 1,
    steps: Steps = 20,
    rule: Rule = "riemann",
    facts: Facts = "builtin",
    out: Out = None,
    device: Device = None,
    dtype: DType = "float32",
    matmul_precision: MatmulPrecision = "highest",
    as_json: Json = False,
) -> None:
    """Locate one fact with each of the locators: maps of tokens and layers beside each other."""
    from interp.engine.corruption import noise_level
    from interp.facts.fact_files import load_facts
    from interp.locate.method import LocateTask

    names = names_typed(locators)
    check_names("locators", names, LOCATORS)
    depends = frozenset[str]().union(*(locator_named(name).depends for name in names))
    refuse_given(
        context, f"nothing of {', '.join(names)} depends on it", *(name for name in SETTINGS if name not in depends)
    )
    if "noise" not in depends or noise != "3sigma":
        refuse_given(context, "facts are for noise of 3sigma", "facts")
    fact = typed_fact(prompt, subject, target, exact=exact_target, occurrence=occurrence)
    settings: dict[str, Any] = {"window": window, "samples": samples, "seed": seed, "steps": steps, "rule": rule}
    level = noise_level_of(noise)
    reference = load_facts(facts)
    network = load(model, device, dtype, base)
    described: dict[str, Any] = {"fact": repr(fact), "facts": facts, "locators": names, "noise": level, **settings}
    run, described = single_run("locate", network, described, out)
    level = noise_level(network, reference) if level == "3sigma" else level
    found = {}
    for name in names:
        locator = locator_named(name)
        with bar(locator.doing) as advance:
            task = LocateTask(model=network, fact=fact, noise=level, progress=advance, **settings)
            found[name] = locator.run(task)
    run = run.open(run.path, described)
    for name, record in found.items():
        run.put(name, record)
    _show(found, run.path, target_text(network, fact).removeprefix("; "), as_json)


def _show(found: dict[str, MapRecord], place: Path, said: str, as_json: bool) -> None:
    from interp import plots
    from interp.results.record import write_atomically

    shown = {name: record.map() for name, record in found.items()}
    panels = list(shown.values())
    title = next(iter(found.values())).fact.prompt
    plots.save_figure(plots.maps(panels, title=title), place / "maps")
    for name, text in (("maps.html", plots.maps_html(panels, title=title)), ("maps.csv", plots.maps_csv(panels))):
        write_atomically(place / name, text.encode())
    warn_of_letters(panels[0])
    if as_json:
        maps = {
            name: {"title": one.title, "unit": one.unit, "tokens": one.tokens, "values": one.values.tolist()}
            for name, one in shown.items()
        }
        print_json({"maps": maps, "run": str(place)})
        return
    for name, one in shown.items():
        for line in (f"{one.title} ({one.unit})", *found[name].remarks()):
            screen.print(line, soft_wrap=True, markup=False)
        show_map(one)
    if said:
        messages.print(said, soft_wrap=True)
    messages.print(f"records and figures: {place}", soft_wrap=True)
