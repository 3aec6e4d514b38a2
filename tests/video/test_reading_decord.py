"""What decord says where it fails."""

from __future__ import annotations

import re

import pytest

from debug.toy_clips import clip
from model.config import LimitsConfig, SamplingConfig
from model.modality import Unreadable
from model.video.reading import read_clip


def test_reasons_are_the_same_every_time() -> None:
    """Before, they held the time of day: no two were alike in the counts by reason, and a resumed result differed."""
    pytest.importorskip("decord")
    content = bytearray(clip("h264"))
    start = content.find(b"mdat") + 300
    content[start : start + 8700] = bytes(8700)
    with pytest.raises(Unreadable, match="decord: DECORDError: Check failed: avcodec_send_packet") as raised:
        read_clip(bytes(content), SamplingConfig(), LimitsConfig(), decoders=("decord",))
    assert not re.search(r"[0-9]{2}:[0-9]{2}:[0-9]{2}|[.]cc:", str(raised.value))
