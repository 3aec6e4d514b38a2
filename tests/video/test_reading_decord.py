"""What decord says where it fails."""

from __future__ import annotations

import re
from pathlib import Path

import av
import numpy as np
import pytest

from model.config import LimitsConfig, SamplingConfig
from model.modality import Unreadable
from model.video.reading import READERS, read_clip
from tests.toy_clips import clip

DECORD = {"decord": READERS["decord"]}


def test_reasons_are_the_same_every_time() -> None:
    """Before, they held the time of day: no two were alike in the counts by reason, and a resumed result differed."""
    pytest.importorskip("decord")
    content = bytearray(clip("h264"))
    start = content.find(b"mdat") + 300
    content[start : start + 8700] = bytes(8700)
    with pytest.raises(Unreadable, match="decord: DECORDError: Check failed: avcodec_send_packet") as raised:
        read_clip(bytes(content), SamplingConfig(), LimitsConfig(), readers=DECORD)
    assert not re.search(r"[0-9]{2}:[0-9]{2}:[0-9]{2}|[.]cc:", str(raised.value))


def test_reasons_do_not_hold_the_file_s_place(tmp_path: Path) -> None:
    """Before, each file of a folder had a reason of its own. A browser's recordings tell no duration, as this one."""
    pytest.importorskip("decord")
    frames = np.random.default_rng(0).integers(0, 255, (8, 64, 96, 3)).astype(np.uint8)
    with av.open(str(tmp_path / "sample.webm"), "w", options={"live": "1"}) as container:
        stream = container.add_stream("libvpx", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(Unreadable, match="decord: DECORDError: Failed to measure duration"):
        read_clip(str(tmp_path / "sample.webm"), SamplingConfig(), LimitsConfig(), readers=DECORD)
