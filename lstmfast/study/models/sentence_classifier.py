"""A sentence classifier: sentences of different lengths go through the recurrent layer packed, without padding, and are
pooled over time, where padding must not count."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PAD, UNKNOWN = 0, 1

Pooling = Literal["last", "mean", "max"]


class Vocabulary:
    """Words as numbers from 2 on; words seen less than `least` times are UNKNOWN."""

    def __init__(self, sentences: Iterable[Sequence[str]], least: int = 2):
        counts = Counter(word for sentence in sentences for word in sentence)
        self.words = sorted(word for word, count in counts.items() if count >= least)
        self._numbers = {word: number for number, word in enumerate(self.words, start=UNKNOWN + 1)}

    def __len__(self) -> int:
        return len(self.words) + UNKNOWN + 1

    def encode(self, sentence: Sequence[str]) -> Tensor:
        """int64 [number of words]; a sentence without words is one UNKNOWN."""
        return torch.tensor([self._numbers.get(word, UNKNOWN) for word in sentence] or [UNKNOWN])


class Sentences(NamedTuple):
    tokens: Tensor  # int64 [T, B], padded with PAD
    lengths: Tensor  # int64 [B], on the CPU


def collate(sentences: Sequence[Tensor], device: torch.device | None = None) -> Sentences:
    """Pads what Vocabulary.encode gives."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    return Sentences(pad_sequence(list(sentences), padding_value=PAD).to(device), lengths)


def pool(outputs: Tensor, lengths: Tensor, how: Pooling) -> Tensor:
    """[T, B, H] -> [B, H] over the first lengths[b] steps of each sequence b: the last one, their mean, or the largest
    value of each unit. What lies beyond a length does not count, whatever it is."""
    lengths = lengths.to(outputs.device)
    if how == "last":
        return outputs[lengths - 1, torch.arange(len(lengths), device=outputs.device)]
    within = (torch.arange(len(outputs), device=outputs.device)[:, None] < lengths).unsqueeze(-1)
    if how == "mean":
        return outputs.where(within, 0).sum(0) / lengths.unsqueeze(-1)
    return outputs.where(within, -torch.inf).amax(0)


class SentenceClassifier(nn.Module):
    """Embedding, the recurrent layer `recurrent`, pooling over time, and a linear layer onto the classes."""

    def __init__(
        self,
        vocabulary_size: int,
        classes: int,
        recurrent: nn.RNNBase,
        pooling: Pooling = "mean",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, recurrent.input_size, padding_idx=PAD)
        self.recurrent = recurrent
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(recurrent.hidden_size * (2 if recurrent.bidirectional else 1), classes)

    def forward(self, sentences: Sentences) -> Tensor:
        """Logits [B, classes]."""
        embedded = self.dropout(self.embedding(sentences.tokens))
        outputs, _ = self.recurrent(pack_padded_sequence(embedded, sentences.lengths, enforce_sorted=False))
        outputs, lengths = pad_packed_sequence(outputs)
        return self.output(self.dropout(pool(outputs, lengths, self.pooling)))
