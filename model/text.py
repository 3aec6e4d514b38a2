"""Errors of others, as one line of a log or of a result file."""

from __future__ import annotations

_MAX_CHARACTERS = 200


def one_line(error: BaseException) -> str:
    """`ValueError: what it says`, on one line, cut after 200 characters."""
    return f"{type(error).__name__}: {shortened(str(error))}"


def shortened(text: str) -> str:
    """The text on one line, cut after 200 characters."""
    return " ".join(text.split())[:_MAX_CHARACTERS]
