"""The text that comes with the package, made again: ``python -m benchmarks.write_text`` writes and compares.

The embedded model writes its 20,000 tokens for second moments as it would without the shipped file (minutes), and the
rows that differ from the file are counted: none on the machine that made it, perhaps some elsewhere, as sampling
follows the last bits of logits. ``--save`` puts the new text into its place.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.machine import console
from interp.editing.corpora import Corpus, corpus_rows
from interp.editing.shipped_text import FOLDER, SHIPPED, load_text, save_text
from interp.models.load import load_model
from interp.results.record import provenance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="Put the new text into the place of the shipped one.")
    options = parser.parse_args()
    model = load_model(device="cpu")
    assert model.cfg.d_mlp is not None
    about, corpus = provenance(model), Corpus().sized(model.cfg.d_mlp)
    path = FOLDER / SHIPPED.get(about.weights_hash, f"{about.model}.npz")
    before = time.perf_counter()
    rows = torch.cat(list(corpus_rows(model, corpus)))
    console.print(f"{rows.numel()} tokens in {time.perf_counter() - before:.0f} s, torch {torch.__version__}")
    if path.exists():
        shipped = load_text(path)
        same = shipped.tokens.shape == rows.shape
        differ = int((shipped.tokens != rows.cpu()).any(1).sum()) if same else len(rows)
        console.print(f"{path.name} ({path.stat().st_size:,} bytes): {differ} of {len(rows)} rows differ")
    if options.save:
        save_text(path, rows, corpus, about)
        console.print(f"wrote {path} of weights {about.weights_hash}")


if __name__ == "__main__":
    main()
