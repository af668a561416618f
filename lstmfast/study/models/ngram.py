"""What a language model must beat: an n-gram model and bz2, neither of which is trained step by step.

    P_n(t | context) = (count(context t) + distinct(context) * P_{n-1}(t | shorter context))
                       / (count(context) + distinct(context))

is Witten and Bell's estimate (The zero-frequency problem, IEEE Transactions on Information Theory 37(4), 1991,
method C) in its interpolated form (Chen and Goodman, An empirical study of smoothing techniques for language modeling,
Computer Speech and Language 13, 1999, section 2.4). `distinct` counts the different tokens seen after the context;
the shortest "context" of all is the uniform distribution over the vocabulary.
"""

import bz2
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

Tokens = str | tuple[Hashable, ...]
"""A text: a string of characters or a tuple of words. Both can be sliced, and their slices can be looked up."""


class Ngram:
    """Witten-Bell interpolated n-gram model: predicts a token from the `order - 1` tokens before it."""

    def __init__(self, order: int, text: Tokens, vocabulary: Iterable[Hashable]):
        """Counts `text`; `vocabulary` is what can ever be predicted and must hold every token of the text.

        Raises ValueError for an order below 1 or a token outside the vocabulary.
        """
        self.vocabulary = sorted(set(vocabulary))
        if order < 1:
            raise ValueError(f"the order must be at least 1, not {order}")
        if not set(text) <= set(self.vocabulary):
            raise ValueError("the text has tokens that the vocabulary lacks")
        self.order = order
        self._successors: dict[Tokens, Counter[Hashable]] = defaultdict(Counter)
        for length in range(order):
            for position in range(length, len(text)):
                self._successors[text[position - length : position]][text[position]] += 1
        self._totals = {context: successors.total() for context, successors in self._successors.items()}

    def probability(self, token: Hashable, context: Tokens) -> float:
        """P(token | context); of the context only the last `order - 1` tokens matter."""
        probability = 1 / len(self.vocabulary)
        for length in range(min(self.order - 1, len(context)) + 1):
            shorter_context = context[len(context) - length :]
            if shorter_context not in self._totals:
                break  # never seen, and so no longer context either: the shorter one's estimate stands
            successors, total = self._successors[shorter_context], self._totals[shorter_context]
            distinct = len(successors)
            probability = (successors[token] + distinct * probability) / (total + distinct)
        return probability

    def bits_per_token(self, text: Tokens, history: Tokens) -> float:
        """Mean of -log2 P over `text`, which follows upon `history`."""
        history = history[max(0, len(history) - self.order + 1) :]
        joined = history + text
        bits = 0.0
        for position in range(len(history), len(joined)):
            context = joined[max(0, position - self.order + 1) : position]
            bits -= math.log2(self.probability(joined[position], context))
        return bits / len(text)


def bz2_bits_per_character(text: str, history: str) -> float:
    """Bits per character of `text` for a compressor that has read `history`: what appending it adds to the file."""
    alone = len(bz2.compress(history.encode()))
    together = len(bz2.compress((history + text).encode()))
    return (together - alone) * 8 / len(text)
