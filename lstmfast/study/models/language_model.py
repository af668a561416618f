"""A language model: predicts each next token of a text, be it a character or a word.

Training is truncated backpropagation through time (R. Williams, J. Peng, "An efficient gradient-based algorithm for
on-line training of recurrent network trajectories", Neural Computation 2, 1990): a batch goes on where the one before
ended, with its final state, but the gradient goes back no further than the batch's beginning.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn


class LanguageModel(nn.Module):
    """Embedding, the recurrent layer `recurrent`, and a linear layer onto the vocabulary."""

    def __init__(self, vocabulary_size: int, recurrent: nn.RNNBase, dropout: float = 0.0):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, recurrent.input_size)
        self.recurrent = recurrent
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(recurrent.hidden_size, vocabulary_size)

    def forward(self, tokens: Tensor, state=None):
        """tokens: int64 [T, B]; returns logits [T, B, vocabulary_size] and the state to go on from."""
        hidden, state = self.recurrent(self.dropout(self.embedding(tokens)), state)
        return self.output(self.dropout(hidden)), state


class Batch(NamedTuple):
    inputs: Tensor  # int64 [T, B]
    targets: Tensor  # int64 [T, B]: the tokens that follow upon the inputs
    begins: bool  # whether the text begins anew, and with it the state


def pieces(tokens: Tensor, batch_size: int, length: int) -> Iterator[Batch]:
    """Goes once through a text [N]: it is cut into `batch_size` parts that are read side by side, `length` tokens at a
    time. Raises ValueError for a text too short for that."""
    part = (len(tokens) - 1) // batch_size
    if part < 1:
        raise ValueError(f"a text of {len(tokens)} tokens is too short for a batch of {batch_size}")
    inputs = tokens[: part * batch_size].view(batch_size, part).t().contiguous()
    targets = tokens[1 : part * batch_size + 1].view(batch_size, part).t().contiguous()
    for start in range(0, part, length):
        yield Batch(inputs[start : start + length], targets[start : start + length], start == 0)


def batches(tokens: Tensor, batch_size: int, length: int) -> Iterator[Batch]:
    """The same, without end."""
    while True:
        yield from pieces(tokens, batch_size, length)


def detached(state):
    """The same state without its history."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


class CarriedLoss:
    """Cross entropy of a batch, in nats per token, the state being carried along from batch to batch."""

    def __init__(self, model: LanguageModel):
        self.model = model
        self.state = None

    def __call__(self, batch: Batch) -> Tensor:
        logits, state = self.model(batch.inputs, None if batch.begins else self.state)
        self.state = detached(state)
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())


@torch.no_grad()
def bits_per_token(model: LanguageModel, tokens: Tensor, batch_size: int = 8, length: int = 200) -> float:
    """Mean of -log2 P over a text [N], the model being in eval mode; it is read in `batch_size` parts, each from a zero
    state, and the last N modulo batch_size tokens are left out."""
    loss, nats, count = CarriedLoss(model), 0.0, 0
    for batch in pieces(tokens, batch_size, length):
        nats += loss(batch).item() * batch.targets.numel()
        count += batch.targets.numel()
    return nats / count / math.log(2)


@torch.no_grad()
def generate(model: LanguageModel, prompt: Tensor, count: int, temperature: float, seed: int = 0) -> list[int]:
    """Draws `count` tokens after `prompt` [M] one by one from softmax(logits / temperature), carrying the state."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    logits, state = model(prompt[:, None])
    for _ in range(count):
        token = torch.multinomial((logits[-1, 0].cpu() / temperature).softmax(0), 1, generator=generator)
        drawn.append(token.item())
        logits, state = model(token.to(prompt.device)[:, None], state)
    return drawn
