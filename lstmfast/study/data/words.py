"""Texts in words."""

import re


def words(text: str) -> list[str]:
    """Lower-case words, numbers and punctuation marks."""
    return re.findall(r"[a-z_]+(?:'[a-z]+)?|[0-9]+|[^\sa-z0-9_]", text.lower())
