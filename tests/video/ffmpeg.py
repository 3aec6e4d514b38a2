"""The frames that ffmpeg's command decodes from a clip, and changes to its bytes that the command does not make."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from debug.field_clips import FFMPEG


def ffmpegs_frames(path: Path, height: int, width: int, *options: str) -> np.ndarray:
    """All that the command shows, int16 (T, height, width, 3). Raises: AssertionError: frames of another size."""
    command = [FFMPEG, "-nostdin", "-v", "quiet", "-threads", "1", *options, "-i", str(path)]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout
    assert raw and len(raw) % (height * width * 3) == 0, "ffmpeg shows nothing, or frames of another size"
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, height, width, 3).astype(np.int16)


def with_encryption(content: bytes) -> bytes:
    """A WebM whose only track says that it is encrypted (WebM Encryption, ContentEncAlgo 5)."""

    def element(number: str, body: bytes) -> bytes:
        return bytes.fromhex(number) + (len(body) | 1 << 56).to_bytes(8, "big") + body

    key = element("5035", element("47E1", b"\x05") + element("47E2", b"a key id"))
    added = element("6D80", element("6240", key))
    tracks = content.index(bytes.fromhex("1654AE6B"), content.index(bytes.fromhex("1654AE6B")) + 1)
    entry = content.index(b"\xae", tracks + 5)
    size_bytes = 9 - content[entry + 1].bit_length()
    start = entry + 1 + size_bytes
    end = start + (int.from_bytes(content[entry + 1 : start], "big") & (1 << 7 * size_bytes) - 1)
    tracks_element = element("1654AE6B", element("AE", content[start:end] + added))
    segment = content.index(bytes.fromhex("18538067")) + 4
    return content[:segment] + b"\x01" + 7 * b"\xff" + content[segment + 8 : tracks] + tracks_element + content[end:]


def without_later_parameter_sets(stream: bytes) -> bytes:
    """A bare H.264 stream with its first sequence and picture parameter set alone."""
    units = stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    first = {unit[0] & 31: unit for unit in reversed(units)}
    kept = [unit for unit in units if unit[0] & 31 not in (7, 8) or unit is first[unit[0] & 31]]
    return b"".join(b"\0\0\0\1" + unit for unit in kept)
