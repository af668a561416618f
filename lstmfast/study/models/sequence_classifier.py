"""Sequences of different lengths in, one class each out."""

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence


class SequenceClassifier(nn.Module):
    """recurrent: an LSTM or RNN. It reads each sequence to its end, and its last state decides."""

    def __init__(self, recurrent: nn.RNNBase, classes: int):
        super().__init__()
        self.recurrent = recurrent
        self.output = nn.Linear(recurrent.hidden_size, classes)

    def forward(self, sequences: list[Tensor]) -> Tensor:
        """sequences: [T_i, I] each; returns logits [B, classes], in the order of the sequences."""
        # Packed: no step is computed for padding, and h_n is the state after each sequence's own last step.
        _, state = self.recurrent(pack_sequence(sequences, enforce_sorted=False))
        h_n = state[0] if isinstance(state, tuple) else state
        return self.output(h_n[-1])
