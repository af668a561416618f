"""Tables of comma-separated values."""

import csv
import io


def rows(content: bytes) -> list[list[str]]:
    """The rows below the header, without blank lines."""
    return [row for row in csv.reader(io.StringIO(content.decode())) if row][1:]
