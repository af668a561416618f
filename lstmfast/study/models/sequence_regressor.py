"""Numbers in, numbers out: a recurrent layer and a linear one."""

from torch import Tensor, nn


class SequenceRegressor(nn.Module):
    """recurrent: an LSTM or RNN, time first.

    Attributes after construction: recurrent, output (the linear layer onto `outputs` values)."""

    def __init__(self, recurrent: nn.RNNBase, outputs: int = 1):
        super().__init__()
        self.recurrent = recurrent
        self.output = nn.Linear(recurrent.hidden_size, outputs)

    def forward(self, input: Tensor) -> Tensor:
        """input [T, B, I]; returns a value for each step, [T, B, outputs]. For one value per sequence take the last."""
        hidden, _ = self.recurrent(input)
        return self.output(hidden)
