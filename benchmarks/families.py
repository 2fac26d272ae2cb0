"""How far the logits of each family are from transformers': python -m benchmarks.families

It loads a tiny random model of every family, and of variants of some, as any other model, and writes the table of
``docs/how-to/models.md``. All parameters are random, biases and gains too, so none could be left out and not be seen.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from interp.models.families import FAMILIES, family_named
from interp.models.load import load_model
from tests.tiny_families import TINY, random_model, tiny_config

__all__ = ["HEADING", "PAGE", "difference", "row", "table_of"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "models.md"
HEADING = "| family | what it has of its own | located | edited | logits differ by at most |"
TOKENS = (2, 64)


def difference(name: str, folder: Path) -> float:
    """The largest difference between logits of one tiny model here and in transformers, over 128 tokens.

    Args:
        name: One of the tiny models.
        folder: Where to write it.
    """
    random_model(tiny_config(name)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "tests" / "golden" / "tiny-gpt2").save_pretrained(folder)
    model, reference = load_model(folder, device="cpu"), AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.randint(1, model.cfg.d_vocab, TOKENS, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        return float((model(tokens) - reference(tokens).logits).abs().max())


def row(architecture: str) -> str:
    """A family's row without its last cell: its file says what it is."""
    place = FAMILIES[architecture]
    assert isinstance(place, str)
    module = importlib.import_module(f"interp.models.families.{place.partition('.')[0]}")
    said = " ".join((module.__doc__ or "").split("\n\n")[0].split())
    name, _, special = said.rstrip(".").partition(": ")
    whole = family_named(architecture).down_projection is not None
    located, edited = ("both ways", "yes") if whole else ("traced", "no: experts have no one `W_out`")
    return f"| {name} | {special} | {located} | {edited} |"


def table_of(page: str) -> list[str]:
    """The rows of the table in a page."""
    lines = page.splitlines()
    first = lines.index(HEADING) + 2
    return [line for line in lines[first : first + len(FAMILIES)] if line.startswith("|")]


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (architecture, _) in TINY.items():
            apart = difference(name, Path(folder) / name)
            print(f"{name:20} {apart:.1e}")
            found[architecture] = max(found.get(architecture, 0.0), apart)
    page = PAGE.read_text("utf-8")
    measured = [f"{row(architecture)} {found[architecture]:.0e} |" for architecture in FAMILIES]
    begin = page.index(HEADING)
    end = page.index("\n\n", begin)
    heads = [HEADING, "| --- | --- | --- | --- | ---: |"]
    PAGE.write_text(page[:begin] + "\n".join([*heads, *measured]) + page[end:], "utf-8")


if __name__ == "__main__":
    _main()
