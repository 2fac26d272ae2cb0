"""Knowledge neurons as an editor, a baseline: scale the neurons that carry a fact, or move them to the new answer.

1. Attribution scores of the old answer at the last token, for the prompt and each paraphrase.
2. Refined neurons: those above a threshold in a share of the prompts (:func:`interp.refined_neurons`).
3. Their rows of W_out become scale * row - remove * e(old) + insert * e(new), with e the unembedding direction of the
   answer's first token.

Source: Dai et al. 2022, sections 3.2 and 4.2 ("updating facts"; "erasing" is scale = 0 without the rest).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import KnConfig
from interp.errors import NumericalError
from interp.facts.records import EditRequest
from interp.locate.methods.attribution import attribute, refined_neurons
from interp.models.tokens import encode_continuation, tokenize
from interp.options import Progress
from interp.results.record import Provenance

__all__ = ["scale_neurons"]


def scale_neurons(
    model: HookedTransformer,
    request: EditRequest,
    config: KnConfig,
    *,
    model_provenance: Provenance,
    progress: Progress | None = None,
) -> tuple[dict[int, Float[Tensor, "d_mlp neuron"]], dict[int, Float[Tensor, "neuron d_model"]]]:
    """Factors by layer: which neurons, and what is added to their rows of W_out.

    Raises:
        FactError: If a prompt does not fit the model.
        NumericalError: If no neuron passes the threshold.
    """
    prompts = (request.fact, *request.fact.paraphrased())
    attributions = []
    for index, fact in enumerate(prompts):
        found = attribute(
            model,
            fact,
            tokens="last",
            steps=config.attribution_steps,
            rule="gauss-legendre",
            model_provenance=model_provenance,
        )
        attributions.append(found)
        if progress:
            progress(index + 1, len(prompts))
    neurons = list(refined_neurons(attributions, threshold=config.threshold, share=config.share))
    if not neurons:
        raise NumericalError(f"no knowledge neuron of {request.fact.prompt!r} passes threshold {config.threshold:g}")
    old = tokenize(model, request.fact).target_ids[:1] or _top_id(model, request)
    new = encode_continuation(model, request.fact.prompt, request.new_target)[1]
    moved = config.insert * model.W_U[:, new[0]] - config.remove * model.W_U[:, old[0]]
    left: dict[int, Tensor] = {}
    right: dict[int, Tensor] = {}
    for layer in sorted({neuron.layer for neuron in neurons[: config.max_neurons]}):
        which = [n.neuron for n in neurons[: config.max_neurons] if n.layer == layer]
        block: Any = model.blocks[layer]
        rows = block.mlp.W_out.detach()[which].float()
        left[layer] = torch.zeros(block.mlp.W_out.shape[0], len(which), device=rows.device)
        left[layer][which, range(len(which))] = 1
        right[layer] = (config.scale - 1) * rows + moved.float()
    return left, right


def _top_id(model: HookedTransformer, request: EditRequest) -> tuple[int]:
    with torch.no_grad():
        logits = model(tokenize(model, request.fact).ids[None], prepend_bos=False)[0, -1]
    return (int(logits.argmax()),)
