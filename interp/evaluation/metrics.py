"""Measures of answers and texts, without a model.

Reliability, generality and portability are token accuracies on the prompts they are named for; locality is the
agreement of the model with itself, whatever the truth is; the score of an edit is the harmonic mean of
reliability, locality and portability. Fluency is the n-gram entropy of Zhang et al. 2018, weighted as in
Meng et al. 2022.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from nltk.tokenize import NLTKWordTokenizer

from interp.errors import OptionError

__all__ = ["agreement", "exact_match", "fluency", "harmonic_mean", "token_accuracy"]

NGRAM_WEIGHTS = {2: 2 / 3, 3: 4 / 3}


def token_accuracy(predicted: Sequence[int], target: Sequence[int]) -> float:
    """Share of the target's tokens that were predicted.

    Args:
        predicted: The arg-max token at each position that predicts a target token, the target being fed in
            (teacher forcing).
        target: The target's tokens.

    Raises:
        OptionError: If the lengths differ or are 0.
    """
    return _share_equal(predicted=predicted, target=target)


def agreement(before: Sequence[int], after: Sequence[int]) -> float:
    """Share of positions with the same arg-max token before and after an edit, be it right or wrong.

    Raises:
        OptionError: If the lengths differ or are 0.
    """
    return _share_equal(before=before, after=after)


def exact_match(generated: Sequence[int], target: Sequence[int]) -> bool:
    """Whether as many freely generated tokens as the target has are the target.

    Raises:
        OptionError: If the lengths differ or are 0.
    """
    return _share_equal(generated=generated, target=target) == 1


def _share_equal(**tokens: Sequence[int]) -> float:
    (name, first), (other_name, second) = tokens.items()
    if len(first) != len(second):
        raise OptionError(f"{name} and {other_name} differ in length: {len(first)} and {len(second)} tokens")
    if not len(first):
        raise OptionError(f"{name} and {other_name} have no tokens")
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


def fluency(text: str) -> float:
    """Mean of 2/3 times the bigram entropy and 4/3 times the trigram entropy in bits, times 100.

    Repetition lowers it. Words are those of NLTK's word tokenizer; a text too short for an n-gram has entropy 0.
    """
    words = NLTKWordTokenizer().tokenize(text)
    weighted = [weight * _entropy(words, n) for n, weight in NGRAM_WEIGHTS.items()]
    return 100 * sum(weighted) / len(weighted)


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; 0 if a value is 0.

    Raises:
        OptionError: If there are no values, or one is negative or not finite.
    """
    if not values:
        raise OptionError("the harmonic mean of no values")
    for value in values:
        if not 0 <= value < math.inf:
            raise OptionError(f"the harmonic mean needs finite values of at least 0, got {value!r}")
    return len(values) / sum(1 / value for value in values) if all(values) else 0.0
