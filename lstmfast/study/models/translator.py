"""Translation, character by character: an encoder reads the source, a decoder writes the target.

Without attention everything that the decoder learns of the source is the encoder's final state (I. Sutskever, O.
Vinyals, Q. Le, "Sequence to sequence learning with neural networks", NIPS 2014). With attention it looks back at all
of the encoder's outputs, weighted anew for each character (T. Luong, H. Pham, C. Manning, "Effective approaches to
attention-based neural machine translation", EMNLP 2015: "dot" scores, without input feeding).

Trained by teacher forcing: the decoder's input is the right target, shifted by one character.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PAD, BEGIN, END = 0, 1, 2


class Alphabet:
    """Characters as numbers from 3 on; PAD, BEGIN and END come before."""

    def __init__(self, texts: Iterable[str]):
        self.characters = sorted(set().union(*texts))
        self._numbers = {character: number for number, character in enumerate(self.characters, start=END + 1)}

    def __len__(self) -> int:
        return len(self.characters) + END + 1

    def encode(self, text: str) -> Tensor:
        """int64 [len(text) + 1], the last one END. Raises KeyError for a character that it does not have."""
        return torch.tensor([*(self._numbers[character] for character in text), END])

    def decode(self, numbers: Sequence[int]) -> str:
        """The text up to END."""
        numbers = list(numbers)
        written = numbers[: numbers.index(END)] if END in numbers else numbers
        return "".join(self.characters[number - END - 1] for number in written if number > END)


class Pairs(NamedTuple):
    """A batch of sources and targets, each ending with END and padded with PAD."""

    sources: Tensor  # int64 [S, B]
    lengths: Tensor  # int64 [B], on the CPU: the sources' lengths
    targets: Tensor  # int64 [T, B]


def collate(sources: Sequence[Tensor], targets: Sequence[Tensor], device: torch.device | None = None) -> Pairs:
    """Pads what Alphabet.encode gives."""
    lengths = torch.tensor([len(source) for source in sources])
    padded = (pad_sequence(list(texts), padding_value=PAD).to(device) for texts in (sources, targets))
    return Pairs(next(padded), lengths, next(padded))


class Translator(nn.Module):
    """`encoder` and `decoder` are recurrent layers of the same kind and size; both read embedded characters."""

    def __init__(
        self,
        source_size: int,
        target_size: int,
        encoder: nn.RNNBase,
        decoder: nn.RNNBase,
        attention: bool = False,
    ):
        super().__init__()
        self.source_embedding = nn.Embedding(source_size, encoder.input_size)
        self.target_embedding = nn.Embedding(target_size, decoder.input_size)
        self.encoder, self.decoder = encoder, decoder
        hidden = decoder.hidden_size
        self.combine = nn.Linear(2 * hidden, hidden) if attention else None
        self.output = nn.Linear(hidden, target_size)

    def forward(self, pairs: Pairs) -> Tensor:
        """Logits [T, B, target_size] of each character of the targets, given the right ones before it."""
        memory, state = self.encode(pairs)
        begin = torch.full_like(pairs.targets[:1], BEGIN)
        logits, _ = self.decode(torch.cat([begin, pairs.targets[:-1]]), memory, state)
        return logits

    def loss(self, pairs: Pairs) -> Tensor:
        """Cross entropy in nats per character, END included, padding left out."""
        logits = self(pairs)
        return nn.functional.cross_entropy(logits.flatten(0, 1), pairs.targets.flatten(), ignore_index=PAD)

    def encode(self, pairs: Pairs):
        """The encoder's outputs, with their padding, and its state after each source's last character."""
        embedded = self.source_embedding(pairs.sources)
        packed = pack_padded_sequence(embedded, pairs.lengths, enforce_sorted=False)
        outputs, state = self.encoder(packed)
        outputs, _ = pad_packed_sequence(outputs, total_length=len(pairs.sources))
        return (outputs, pairs.sources == PAD), state

    def decode(self, characters: Tensor, memory: tuple[Tensor, Tensor], state):
        """Logits [T, B, target_size] of what follows upon `characters` [T, B], and the state to go on from."""
        hidden, state = self.decoder(self.target_embedding(characters), state)
        if self.combine is not None:
            outputs, padding = memory
            scores = torch.einsum("tbh,sbh->tbs", hidden, outputs).masked_fill(padding.t(), -torch.inf)
            context = torch.einsum("tbs,sbh->tbh", scores.softmax(-1), outputs)
            hidden = torch.tanh(self.combine(torch.cat([hidden, context], dim=-1)))
        return self.output(hidden), state

    @torch.no_grad()
    def translate(self, pairs: Pairs, longest: int) -> list[list[int]]:
        """The likeliest character at each step (greedy decoding), for each source until END, `longest` at most. END is
        not part of what is returned; the targets are not looked at."""
        memory, state = self.encode(pairs)
        batch = pairs.sources.shape[1]
        character = torch.full((1, batch), BEGIN, device=pairs.sources.device)
        finished = torch.zeros(batch, dtype=torch.bool, device=pairs.sources.device)
        written = []
        for _ in range(longest):
            logits, state = self.decode(character, memory, state)
            character = logits.argmax(-1)
            finished |= character[0] == END
            if finished.all():
                break
            written.append(character[0].masked_fill(finished, PAD))
        columns = torch.stack(written, dim=1).tolist() if written else [[]] * batch
        return [[number for number in column if number != PAD] for column in columns]
