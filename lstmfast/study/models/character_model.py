"""Predicts each next character of a text."""

import math
from collections.abc import Callable, Iterator

from torch import Tensor, nn


class CharacterModel(nn.Module):
    """recurrent: an LSTM or RNN, time first; the embedding has the size of its input."""

    def __init__(self, recurrent: nn.RNNBase, alphabet_size: int):
        super().__init__()
        self.embedding = nn.Embedding(alphabet_size, recurrent.input_size)
        self.recurrent = recurrent
        self.output = nn.Linear(recurrent.hidden_size, alphabet_size)

    def forward(self, characters: Tensor, state=None):
        """characters: int64 [T, B]; returns logits [T, B, alphabet_size] and the state to carry on from."""
        hidden, state = self.recurrent(self.embedding(characters), state)
        return self.output(hidden), state


def batches(characters: Tensor, batch_size: int, length: int) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """Yields (inputs [T, B], targets [T, B], whether the text begins anew) without end.

    The text [N] is cut into `batch_size` pieces, read side by side; each batch goes on where the last ended."""
    piece = (len(characters) - 1) // batch_size
    inputs = characters[: piece * batch_size].view(batch_size, piece).t().contiguous()
    targets = characters[1 : piece * batch_size + 1].view(batch_size, piece).t().contiguous()
    while True:
        for start in range(0, piece - length + 1, length):
            yield inputs[start : start + length], targets[start : start + length], start == 0


def carried_loss(model: CharacterModel) -> Callable[[tuple[Tensor, Tensor, bool]], Tensor]:
    """The mean loss of a batch, in bits per character, as a function that carries the state from batch to batch:
    truncated backpropagation through time."""
    state = None

    def loss(batch: tuple[Tensor, Tensor, bool]) -> Tensor:
        nonlocal state
        inputs, targets, begins = batch
        logits, state = model(inputs, None if begins else state)
        state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()) / math.log(2)

    return loss
