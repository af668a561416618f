"""Fused LSTM and RNN layers for PyTorch: a drop-in for torch.nn.LSTM and torch.nn.RNN."""

import torch  # noqa: F401  its libraries, and the OpenMP runtime with them, must be loaded before ours

from ._C import build_info, kept_memory_info, set_kept_memory_limit, set_weight_cache_limit, weight_cache_info
from .convert import ConversionReport, convert, to_torch
from .explain import explain
from .functional import lstm, rnn
from .modules import LSTM, RNN
from .streaming import Stream

__version__ = build_info()["version"]

__all__ = [
    "LSTM",
    "RNN",
    "ConversionReport",
    "Stream",
    "build_info",
    "convert",
    "explain",
    "kept_memory_info",
    "lstm",
    "rnn",
    "set_kept_memory_limit",
    "set_weight_cache_limit",
    "to_torch",
    "weight_cache_info",
]
