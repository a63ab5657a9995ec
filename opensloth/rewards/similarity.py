"""Measures of how alike two texts are, each from 0 to 1."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

_WORD = re.compile(r"\w+|[^\w\s]")
BLEU_ORDER = 4


def words(text: str) -> list[str]:
    """Words in lower case, and single signs."""
    return _WORD.findall(text.lower())


def fuzzy_match(text: str, reference: str) -> float:
    """Normalised indel similarity of the characters, as `rapidfuzz.fuzz.ratio / 100`."""
    from rapidfuzz.distance import Indel  # here, as not every service that knows the measures computes them

    return Indel.normalized_similarity(text, reference)


def rouge_n(text: str, reference: str, n: int) -> float:
    """F1 of the n-grams that both have (Lin 2004)."""
    mine, theirs = words(text), words(reference)
    found, wanted = _grams(mine, n), _grams(theirs, n)
    if not found and not wanted:
        return float(mine == theirs)
    return _f1((found & wanted).total(), found.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004)."""
    from rapidfuzz.distance import LCSseq

    found, wanted = words(text), words(reference)
    return _f1(LCSseq.similarity(found, wanted), len(found), len(wanted))


def bleu(text: str, reference: str) -> float:
    """Sentence BLEU up to 4-grams (Papineni et al. 2002), higher orders add-one smoothed (Lin and Och 2004)."""
    found, wanted = words(text), words(reference)
    if not found or not wanted:
        return float(found == wanted)
    logs = []
    for n in range(1, BLEU_ORDER + 1):
        grams = _grams(found, n)
        same, total = (grams & _grams(wanted, n)).total(), grams.total()
        if n > 1:
            same, total = same + 1, total + 1
        if same == 0:
            return 0.0
        logs.append(math.log(same / total))
    brevity = min(0.0, 1 - len(wanted) / len(found))
    return math.exp(brevity + sum(logs) / BLEU_ORDER)


def gleu(text: str, reference: str) -> float:
    """Google's BLEU: the lesser of precision and recall over all 1- to 4-grams (Wu et al. 2016)."""
    found, wanted = words(text), words(reference)
    if not found or not wanted:
        return float(found == wanted)
    same = sizes = wanted_sizes = 0
    for n in range(1, BLEU_ORDER + 1):
        a, b = _grams(found, n), _grams(wanted, n)
        same, sizes, wanted_sizes = same + (a & b).total(), sizes + a.total(), wanted_sizes + b.total()
    return same / max(sizes, wanted_sizes)


def _grams(items: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(items[place : place + n]) for place in range(len(items) - n + 1))


def _f1(same: int, found: int, wanted: int) -> float:
    return 2 * same / (found + wanted) if found + wanted else 1.0


MEASURES: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "rouge_l": rouge_l,
    **{f"rouge_{n}": partial(rouge_n, n=n) for n in range(1, 6)},
}
