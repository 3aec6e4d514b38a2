"""A file as its bytes or its path, before any decoder sees it."""

from __future__ import annotations

import io
import os
import stat

from .modality import Refused, Unreadable


class UnnamedFile(io.BufferedReader):
    """A file whose name FFmpeg does not get to see: it guesses formats from names."""

    name = "<none>"

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))


def checked_source(source: bytes | str, max_bytes: int) -> bytes | str:
    """The source with its path made absolute, so that FFmpeg takes no part of it for a protocol.

    Raises: Unreadable: empty, or not a plain file (opening a pipe or a device can wait for ever). Refused: too large.
    """
    if isinstance(source, str):
        source = os.path.abspath(source)
        try:
            status = os.stat(source)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise Unreadable(f"cannot read the file: {getattr(error, 'strerror', error)}") from error
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable(f"not a plain file: {stat.filemode(status.st_mode)}")
        size = status.st_size
    else:
        size = len(source)
    if size == 0:
        raise Unreadable("the file is empty")
    if size > max_bytes:
        raise Refused(f"the file has {size} bytes; the limit is {max_bytes}")
    return source
