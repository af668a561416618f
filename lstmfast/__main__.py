"""The command `lstmfast`, also `python -m lstmfast`: its only subcommand is the study (docs/study.md)."""

import argparse
import sys
from collections.abc import Sequence

from .study import cli as study


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lstmfast", description="Fused LSTM and RNN layers for PyTorch.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    study.add_command(commands)
    options = parser.parse_args(arguments)
    return options.command(options)


if __name__ == "__main__":
    sys.exit(main())
