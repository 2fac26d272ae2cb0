"""Base runs: whole prompts that were run once, with everything that other runs need to join them.

What is kept of a block is what enters it and the keys and values that its attention reads: they are noted where
attention takes them up, in the place of an empty key-value cache, so that a norm or a clamp of queries and keys is in
them, whatever the family, and a frozen cache can give them back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry
from transformer_lens.hook_points import HookPoint

from interp.errors import ModelError, OptionError

__all__ = [
    "BaseRun",
    "Hook",
    "Site",
    "base_run",
    "can_be_padded",
    "check_decoder",
    "check_site",
    "frozen_cache",
    "noting_cache",
    "run_bytes",
    "sublayers",
]

Site = Literal["attn_out", "mlp_out"]
Hook = tuple[str, Callable[[Tensor, HookPoint], Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class BaseRun:
    """A finished run that others join.

    Args:
        resid: The residual stream before each block; the last entry is what the final norm reads.
        keys: Per block, as its attention reads them: after any norm or clamp, before any rotation.
        values: Per block.
        attn_out: Attention outputs, if asked for.
        mlp_out: MLP outputs, if asked for.
        begins: The first token of each sample, where short ones are padded on the left; None where none is.
    """

    resid: Float[Tensor, "boundary sample token d_model"]
    keys: tuple[Float[Tensor, "sample token kv_head d_head"], ...]
    values: tuple[Float[Tensor, "sample token kv_head d_head"], ...]
    attn_out: Float[Tensor, "layer sample token d_model"] | None = None
    mlp_out: Float[Tensor, "layer sample token d_model"] | None = None
    begins: tuple[int, ...] | None = None

    def rows(self, index: slice) -> BaseRun:
        """The same run for some of its samples, without what is padding in all of them."""
        begins = None if self.begins is None else self.begins[index]
        first = min(begins) if begins else 0
        since = slice(first, None)
        return BaseRun(
            resid=self.resid[:, index, since],
            keys=tuple(k[index, since] for k in self.keys),
            values=tuple(v[index, since] for v in self.values),
            attn_out=None if self.attn_out is None else self.attn_out[:, index, since],
            mlp_out=None if self.mlp_out is None else self.mlp_out[:, index, since],
            begins=None if not begins or len({*begins}) == 1 else tuple(begin - first for begin in begins),
        )

    def output(self, site: Site) -> Float[Tensor, "layer sample token d_model"]:
        """The recorded outputs of one kind of sublayer."""
        recorded = self.attn_out if site == "attn_out" else self.mlp_out
        if recorded is None:
            raise OptionError(f"the base run did not record {site}")
        return recorded

    def empty(self, samples: int, begins: tuple[int, ...] | None = None) -> BaseRun:
        """Room for a run of so many samples, and where they begin."""
        return BaseRun(
            resid=_room(self.resid, 1, samples),
            keys=tuple(_room(k, 0, samples) for k in self.keys),
            values=tuple(_room(v, 0, samples) for v in self.values),
            attn_out=None if self.attn_out is None else _room(self.attn_out, 1, samples),
            mlp_out=None if self.mlp_out is None else _room(self.mlp_out, 1, samples),
            begins=begins,
        )

    def put(self, index: slice, part: BaseRun) -> None:
        """Write some of the samples."""
        mine = replace(self, begins=None).rows(index)  # all of their tokens
        for name in ("resid", "attn_out", "mlp_out"):
            if getattr(mine, name) is not None:
                getattr(mine, name).copy_(getattr(part, name))
        for here, there in zip((*mine.keys, *mine.values), (*part.keys, *part.values), strict=True):
            here.copy_(there)


def _room(tensor: Tensor, axis: int, size: int) -> Tensor:
    shape = list(tensor.shape)
    shape[axis] = size
    return tensor.new_empty(shape)


def check_decoder(model: HookedTransformer) -> None:
    """Refuse a model in which a run cannot be continued from a block and a prefix, whatever stands after it.

    All of TransformerLens's decoders can: learned, rotary or ALiBi positions, local attention, normalised, clamped or
    grouped keys, parallel blocks, attention without MLPs, mixtures of experts.

    Raises:
        ModelError: Naming the model and the setting: positions that enter above the embedding (``shortformer``,
            ``relative_positional_bias``), attention that looks ahead, weights on several devices.
    """
    if not isinstance(model, HookedTransformer):
        raise ModelError(f"expected a HookedTransformer, got a {type(model).__name__}")
    cfg = model.cfg
    reason = ""
    if cfg.positional_embedding_type not in ("standard", "rotary", "alibi"):
        reason = f"positional_embedding_type={cfg.positional_embedding_type!r}: its positions are added in every block"
    elif cfg.attention_dir != "causal":
        reason = f"attention_dir={cfg.attention_dir!r}: what stands before a token depends on what comes after it"
    elif cfg.n_devices > 1:
        reason = f"n_devices={cfg.n_devices}: load it on one device"
    if reason:
        raise ModelError(f"{cfg.model_name} cannot be traced, patched or attributed with {reason}")


def can_be_padded(model: HookedTransformer) -> bool:
    """Whether prompts of different lengths may share a batch, the short ones padded on the left.

    Learned positions and rotary angles follow the mask; ALiBi and local attention count from token to token. Where
    queries are scaled, or angles stretched, with the length of what is read, padding would count as read.
    """
    return not (model.cfg.use_logn_attn or model.cfg.use_dynamic_ntk_rope)


def sublayers(model: HookedTransformer) -> tuple[Site, ...]:
    """The kinds of sublayer that the model has."""
    return ("attn_out",) if model.cfg.attn_only else get_args(Site)


def check_site(model: HookedTransformer, site: Site, asked: str) -> None:
    """Refuse a sublayer that the model does not have.

    Args:
        model: The model.
        site: The sublayer's output.
        asked: What was asked for, for the error.

    Raises:
        OptionError: Naming the model.
    """
    if site not in sublayers(model):
        raise OptionError(f"{asked} needs MLPs: {model.cfg.model_name} has attention only")


def run_bytes(model: HookedTransformer, samples: int, tokens: int, record: Sequence[Site]) -> int:
    """The memory that a :class:`BaseRun` takes, in bytes."""
    cfg = model.cfg
    heads = cfg.n_heads if cfg.n_key_value_heads is None else cfg.n_key_value_heads
    per_token = (cfg.n_layers + 1) * cfg.d_model + 2 * cfg.n_layers * heads * cfg.d_head
    per_token += len(record) * cfg.n_layers * cfg.d_model
    return samples * tokens * per_token * model.W_E.element_size()


def base_run(
    model: HookedTransformer,
    tokens: Int[Tensor, "sample token"],
    *,
    hooks: Sequence[Hook] | Callable[[slice], Sequence[Hook]] = (),
    record: Sequence[Site] = (),
    begins: Sequence[int] | None = None,
    max_batch_tokens: int | None = None,
) -> BaseRun:
    """Run whole prompts once and keep what other runs join to.

    Args:
        model: A HookedTransformer decoder (:func:`check_decoder`).
        tokens: One row per sample.
        hooks: Interventions during this run (noise on embeddings, say); if samples are run one batch after the other,
            a function that gives those of some samples.
        record: Which sublayer outputs to keep as well.
        begins: The first token of each sample; those before it are padding. Only where :func:`can_be_padded`.
        max_batch_tokens: The most tokens that run at once (one sample at least); all of them if None.

    Raises:
        ModelError: If the model's runs cannot be continued.
        OptionError: If it does not have a sublayer that is to be recorded.
    """
    check_decoder(model)
    for site in record:
        check_site(model, site, f"recording {site}")
    n_samples, n_tokens = tokens.shape
    size = n_samples if max_batch_tokens is None else max(1, max_batch_tokens // n_tokens)
    padding = tuple(begins) if begins and any(begins) else None
    # every token counts, also one that the tokenizer pads with
    starts = torch.tensor(padding or [0] * n_samples, device=tokens.device)
    present = (torch.arange(n_tokens, device=tokens.device) >= starts[:, None]).to(tokens.dtype)
    whole: BaseRun | None = None
    for first in range(0, n_samples, size):
        index = slice(first, min(first + size, n_samples))
        part = _run_together(model, tokens[index], present[index], hooks(index) if callable(hooks) else hooks, record)
        if part.resid.shape[1] == n_samples:
            return replace(part, begins=padding)
        if whole is None:
            whole = part.empty(n_samples, padding)
        whole.put(index, part)
    assert whole is not None
    return whole


def _run_together(
    model: HookedTransformer,
    tokens: Int[Tensor, "sample token"],
    present: Int[Tensor, "sample token"],
    hooks: Sequence[Hook],
    record: Sequence[Site],
) -> BaseRun:
    n_layers = model.cfg.n_layers
    blocks = range(n_layers)
    resid: Tensor | None = None
    outputs: dict[str, Tensor] = {}

    def keep(value: Tensor, hook: HookPoint, *, site: str, layer: int) -> None:
        # each goes to its place at once: to stack them in the end would take the memory twice
        if site == "resid_pre":
            nonlocal resid
            resid = value.new_empty(n_layers + 1, *value.shape) if resid is None else resid
            resid[layer] = value
        else:
            if site not in outputs:
                outputs[site] = value.new_empty(n_layers, *value.shape)
            outputs[site][layer] = value

    noting = [
        (f"blocks.{layer}.hook_{site}", partial(keep, site=site, layer=layer))
        for layer in blocks
        for site in ("resid_pre", *record)
    ]
    cache, noted = noting_cache(model, len(tokens), blocks)
    fwd_hooks: list[Any] = [*hooks, *noting]
    with torch.no_grad():
        final = model.run_with_hooks(
            tokens,
            prepend_bos=False,
            stop_at_layer=n_layers,
            past_kv_cache=cache,
            attention_mask=present,
            fwd_hooks=fwd_hooks,
        )
    if resid is None:
        resid = final.new_empty(1, *final.shape)
    resid[n_layers] = final
    read = [noted[layer].read for layer in blocks]
    return BaseRun(
        resid=resid,
        keys=tuple(k for k, _ in read),
        values=tuple(v for _, v in read),
        attn_out=outputs.get("attn_out"),
        mlp_out=outputs.get("mlp_out"),
    )


@dataclass
class Noted(TransformerLensKeyValueCacheEntry):
    """An empty entry of a key-value cache that adds nothing and notes what attention reads."""

    read: tuple[Tensor, Tensor] = ()  # type: ignore[assignment]

    def append(self, new_keys: Tensor, new_values: Tensor) -> tuple[Tensor, Tensor]:
        """Note keys and values, and give them back as they are."""
        self.read = (new_keys, new_values)
        return new_keys, new_values


def noting_cache(
    model: HookedTransformer, rows: int, blocks: Sequence[int]
) -> tuple[TransformerLensKeyValueCache, dict[int, Noted]]:
    """A cache that leaves a run as it is, and entries that hold afterwards what attention read in some blocks."""
    cfg = model.cfg
    heads = cfg.n_heads if cfg.n_key_value_heads is None else cfg.n_key_value_heads
    nothing = torch.empty((rows, 0, heads, cfg.d_head), device=model.W_E.device, dtype=model.W_E.dtype)
    noted = {layer: Noted(past_keys=nothing, past_values=nothing) for layer in blocks}
    present = torch.empty((rows, 0), device=nothing.device, dtype=torch.int)
    spare = Noted(past_keys=nothing, past_values=nothing)
    entries: list[Any] = [noted.get(layer, spare) for layer in range(cfg.n_layers)]
    return TransformerLensKeyValueCache(entries=entries, previous_attention_mask=present), noted


def frozen_cache(
    model: HookedTransformer,
    prefix: Mapping[int, tuple[Tensor, Tensor]],
    present: Int[Tensor, "row prefix"],
) -> TransformerLensKeyValueCache:
    """What HookedTransformer attends to before the tokens that it is given, left as it is by the run.

    Args:
        model: The model.
        prefix: Keys and values per block, as a :class:`BaseRun` holds them; only these blocks may run.
        present: 1 where a row has a token, 0 where it is padded.
    """
    entries = {
        layer: TransformerLensKeyValueCacheEntry(past_keys=keys, past_values=values, frozen=True)
        for layer, (keys, values) in prefix.items()
    }
    some = next(iter(entries.values()))
    return TransformerLensKeyValueCache(
        entries=[entries.get(layer, some) for layer in range(model.cfg.n_layers)],
        previous_attention_mask=present,
        frozen=True,
    )
