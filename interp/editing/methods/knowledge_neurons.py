"""Knowledge neurons as an editor, a baseline: scale the neurons that carry a fact, or move them to the new answer.

1. Attribution scores of the old answer at the last token, for the prompt and each paraphrase.
2. Refined neurons: those above a threshold in a share of the prompts (:func:`interp.locate.refined_neurons`).
3. Their rows of W_out become scale * row - remove * e(old) + insert * e(new), with e the unembedding direction of the
   answer's first token.

Where a norm stands after the MLP, v = g * u / rho, the rows do not enter the residual stream as they are. There e
becomes rho * g * e / mean(g^2), with rho of the prompt's last token: of all that W_out can return, what moves v most
along e for its length, and as far as e would where all gains are alike. It is linear in what is added; the norm is not.

Source: Dai et al. 2022, sections 3.2 and 4.2 ("updating facts"; "erasing" is scale = 0 without the rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from interp.editing.config import EditConfig, check_numbers
from interp.editing.method import Change, Editor, Task
from interp.engine.mlp_outputs import mlp_output
from interp.engine.suffix import run_rows
from interp.errors import ModelError, NumericalError, OptionError
from interp.facts.records import EditRequest
from interp.locate.methods.attribution import attribute
from interp.locate.refined import refined_neurons
from interp.models.tokens import encode_continuation, tokenize
from interp.options import Progress, check_positive, python_numbers
from interp.patches.patch import Outcome
from interp.results.record import Provenance

__all__ = ["EDITOR", "KnConfig", "scale_neurons"]


@dataclass(frozen=True, kw_only=True)
class KnConfig(EditConfig):
    """Knowledge neurons (Dai et al. 2022, section 4): scale their value vectors, or move them to the new answer.

    Args:
        threshold, share: Of :func:`interp.locate.refined_neurons`, over the fact's prompt and its paraphrases.
        attribution_steps: Gauss-Legendre nodes of the attribution scores.
        scale: The neurons' rows of W_out are multiplied by this: 1 leaves, 0 erases, 2 doubles.
        remove, insert: How often the unembedding direction of the old answer is subtracted from them, and that of
            the new one added (the paper's 1 and 8).
        max_neurons: The highest-scoring neurons at most.
        origin: See :class:`~interp.editing.config.EditConfig`.
    """

    threshold: float = 0.2
    share: float = 0.7
    attribution_steps: int = 8
    scale: float = 1.0
    remove: float = 1.0
    insert: float = 8.0
    max_neurons: int = 20
    origin: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        python_numbers(self)
        check_positive(attribution_steps=self.attribution_steps, max_neurons=self.max_neurons)
        check_numbers(self, threshold=(1e-9, 1), share=(1e-9, 1), scale=(-1e3, 1e3), remove=(0, 1e6), insert=(0, 1e6))

    def at(self, layers: Sequence[int]) -> KnConfig:
        """Refused: the layers are where the neurons are.

        Raises:
            OptionError: Always.
        """
        raise OptionError(f"kn takes no layer, got {layers[-1]!r}: knowledge neurons are where attribution finds them")


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
        ModelError: If the last norm is folded into the unembedding: its columns are not the published directions.
    """
    if str(model.cfg.normalization_type).endswith("Pre"):
        raise ModelError(
            f"{model.cfg.model_name} was processed (norms folded into weights): kn moves neurons along columns of W_U,"
            " which are others there; load it with interp.load_model"
        )
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
    moved = config.insert * model.W_U[:, new[0]].float() - config.remove * model.W_U[:, old[0]].float()
    left: dict[int, Tensor] = {}
    right: dict[int, Tensor] = {}
    for layer in sorted({neuron.layer for neuron in neurons[: config.max_neurons]}):
        which = [n.neuron for n in neurons[: config.max_neurons] if n.layer == layer]
        block: Any = model.blocks[layer]
        rows = block.mlp.W_out.detach()[which].float()
        left[layer] = torch.zeros(block.mlp.W_out.shape[0], len(which), device=rows.device)
        left[layer][which, range(len(which))] = 1
        right[layer] = (config.scale - 1) * rows + _before_norm(model, request, layer, moved)
    return left, right


def _before_norm(
    model: HookedTransformer, request: EditRequest, layer: int, moved: Float[Tensor, "d_model"]
) -> Float[Tensor, "d_model"]:
    """What W_out has to add for the stream to be moved; without a norm after the MLP that itself."""
    output = mlp_output(model, layer)
    if output.norm is None:
        return moved
    ids = tokenize(model, request.fact).ids[None]
    _, seen = run_rows(model, ids, stop=layer + 1, record=output.names)
    rho, gain = output.rho(output.returned(seen)[0, -1]), output.gain()
    return rho * gain * moved / gain.pow(2).mean()


def _top_id(model: HookedTransformer, request: EditRequest) -> tuple[int]:
    with torch.no_grad():
        logits = model(tokenize(model, request.fact).ids[None], prepend_bos=False)[0, -1]
    return (int(logits.argmax()),)


def _change(task: Task) -> Change:
    left, right = scale_neurons(
        task.model,
        task.requests[0],
        task.config,
        model_provenance=task.model_provenance,
        progress=task.progress,
    )
    return Change(left=left, right=right, outcomes=(Outcome(converged=False, probability=None, loss=None, steps=0),))


EDITOR = Editor(
    name="kn",
    title="Knowledge neurons",
    config=KnConfig,
    default=lambda model: KnConfig(origin="published"),
    change=_change,
    one_at_a_time=True,
    reads=lambda request: request.fact.paraphrased(),
)
