"""What a sentence classifier must beat: words and pairs of words, counted, their order otherwise ignored.

Multinomial Naive Bayes with add-one smoothing (C. Manning, P. Raghavan, H. Schütze, "Introduction to Information
Retrieval", Cambridge 2008, section 13.2).
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise


class NaiveBayes:
    """Trained by counting: `sentences` are lists of words, `labels` what they are to be told by."""

    def __init__(self, sentences: Sequence[Sequence[str]], labels: Sequence[int]):
        self._counts: dict[int, Counter] = {label: Counter() for label in sorted(set(labels))}
        for sentence, label in zip(sentences, labels, strict=True):
            self._counts[label].update(_features(sentence))
        share = Counter(labels)
        self._priors = {label: math.log(share[label] / len(labels)) for label in self._counts}
        self._features = set().union(*self._counts.values())
        self._totals = {label: counts.total() + len(self._features) for label, counts in self._counts.items()}

    def predict(self, sentence: Sequence[str]) -> int:
        known = [feature for feature in _features(sentence) if feature in self._features]

        def score(label: int) -> float:
            counts, total = self._counts[label], self._totals[label]
            return self._priors[label] + sum(math.log((counts[feature] + 1) / total) for feature in known)

        return max(self._counts, key=score)

    def accuracy(self, sentences: Sequence[Sequence[str]], labels: Sequence[int]) -> float:
        right = sum(self.predict(sentence) == label for sentence, label in zip(sentences, labels, strict=True))
        return right / len(labels)


def _features(sentence: Sequence[str]) -> list:
    """Its words, and its pairs of neighbouring words."""
    return [*sentence, *pairwise(sentence)]
