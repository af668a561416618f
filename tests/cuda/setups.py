"""What tests of every regime run over; tests/test_gpu_regimes.py sees to it that none is missed."""

import torch
from cases import Options

# Options and sizes (H, B) that together meet every regime of the plans, on a large GPU.
SETUPS = [
    (Options("LSTM"), 64, 16),
    (Options("LSTM"), 256, 40),
    (Options("LSTM"), 1024, 8),
    (Options("LSTM", 2, bidirectional=True, projected=True), 48, 5),
    (Options("RNN_TANH", 2, bidirectional=True), 128, 33),
    (Options("RNN_RELU"), 512, 16),
    (Options("LSTM", 2), 256, 16),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
