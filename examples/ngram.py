"""What a language model must beat: a character n-gram model and bz2, neither of which is trained step by step.

    P_n(c | context) = (count(context c) + distinct(context) * P_{n-1}(c | shorter context))
                       / (count(context) + distinct(context))

is Witten and Bell's estimate (The zero-frequency problem, IEEE Transactions on Information Theory 37(4), 1991,
method C) in its interpolated form (Chen and Goodman, An empirical study of smoothing techniques for language modeling,
Computer Speech and Language 13, 1999, section 2.4). `distinct` counts the different characters seen after the context;
the shortest "context" of all is the uniform distribution over the alphabet.
"""

import bz2
import math
from collections import Counter, defaultdict
from collections.abc import Iterable


class CharacterNgram:
    """Witten-Bell interpolated n-gram model: predicts a character from the `order - 1` characters before it."""

    def __init__(self, order: int, text: str, alphabet: Iterable[str]):
        """Counts `text`; `alphabet` is what can ever be predicted and must hold every character of the text.

        Raises ValueError for an order below 1 or a character outside the alphabet.
        """
        self.alphabet = sorted(set(alphabet))
        if order < 1:
            raise ValueError(f"the order must be at least 1, not {order}")
        if not set(text) <= set(self.alphabet):
            raise ValueError("the text has characters that the alphabet lacks")
        self.order = order
        self._successors: dict[str, Counter[str]] = defaultdict(Counter)
        for length in range(order):
            for position in range(length, len(text)):
                self._successors[text[position - length : position]][text[position]] += 1
        self._totals = {context: successors.total() for context, successors in self._successors.items()}

    def probability(self, character: str, context: str) -> float:
        """P(character | context); of the context only the last `order - 1` characters matter."""
        probability = 1 / len(self.alphabet)
        for length in range(min(self.order - 1, len(context)) + 1):
            shorter_context = context[len(context) - length :]
            if shorter_context not in self._totals:
                break  # never seen, and so no longer context either: the shorter one's estimate stands
            successors, total = self._successors[shorter_context], self._totals[shorter_context]
            distinct = len(successors)
            probability = (successors[character] + distinct * probability) / (total + distinct)
        return probability

    def bits_per_character(self, text: str, history: str) -> float:
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
