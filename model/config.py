"""Every tunable number of a run, in frozen dataclasses."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace

# Held while torch is imported beside a thread that reads rows, and where `datasets` looks whether it is imported.
torch_import = threading.Lock()
MAX_SOUND_SECONDS = 60.0  # read of a sound, from its start; the challenge's files are no longer


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class SamplingConfig:
    """Which frames of a clip are read: runs of consecutive frames that start at key frames (after blank frames there).

    Reading at a key frame costs one frame; reading anywhere else costs every frame back to the key
    frame before it. Frames further on tell little more (training/DECISIONS.md).
    """

    max_runs: int = 4  # runs are spread over the clip, one per chosen key frame; a patch from each
    max_run_frames: int = 2  # the network looks at pairs
    min_run_frames: int = 2  # a shorter run is not worth its seek; temporal evidence needs neighbours

    def __post_init__(self) -> None:
        _require(self.max_runs >= 1, f"max_runs must be at least 1, got {self.max_runs}")
        _require(
            1 <= self.min_run_frames <= self.max_run_frames,
            f"min_run_frames ({self.min_run_frames}) must be between 1 and max_run_frames ({self.max_run_frames})",
        )


@dataclass(frozen=True)
class LimitsConfig:
    """What one file may cost. Checked before the cost is paid wherever the container tells."""

    max_file_bytes: int = 1 << 30  # 1 GiB: a 20 s clip at 400 Mbit/s
    max_frame_pixels: int = 8192 * 4352  # 8K; a 16k x 16k frame is a decompression bomb
    max_streams: int = 64  # real files have a handful
    max_decoded_bytes: int = 320 << 20  # RGB frames held at once; larger frames get shorter runs
    max_scanned_packets: int = 60_000  # packets demuxed in search of key frames (33 min at 30 frames/s)
    soft_seconds: float = 10.0  # processor time; reading then keeps the frames it has; 10 to 30 times what a clip takes
    hard_seconds: float = 40.0  # on the clock, less the wait for a busy processor; the worker is killed here
    worker_memory_bytes: int = 2 << 30  # growth of one decode worker; eight of them fit the challenge's 30 GB

    def __post_init__(self) -> None:
        _require(
            0 < self.soft_seconds < self.hard_seconds,
            f"soft_seconds ({self.soft_seconds}) must be positive and below hard_seconds ({self.hard_seconds})",
        )


@dataclass(frozen=True)
class SegmentConfig:
    """Windows over the whole length of a file (`--segments`)."""

    seconds: float
    max_windows: int = 1000  # of one file; what lies behind is told as not looked at
    max_file_bytes: int = 16 << 30  # a film; it stays on the disk
    max_scanned_packets: int = 1 << 20  # five hours at 60 frames/s
    total_seconds: float = 1800.0  # processor time of one file; each window has `LimitsConfig.soft_seconds`

    def __post_init__(self) -> None:
        _require(1 <= self.seconds <= 600, f"a window has 1 to 600 seconds, got {self.seconds:g}")

    def limits(self, limits: LimitsConfig) -> LimitsConfig:
        """Those of a file that is taken in windows."""
        return replace(limits, max_file_bytes=self.max_file_bytes, max_scanned_packets=self.max_scanned_packets)


@dataclass(frozen=True)
class PipelineConfig:
    """How the run is spread over the machine."""

    workers: int = 0  # decode processes; 0: one per core this process may use
    batch_views: int = 0  # views per network batch; 0: chosen from the device's free memory
    jobs_ahead: int = 2  # clips queued per worker before reading rows pauses (back-pressure)
    queued_bytes: int = 1 << 30  # of files read and not yet decoded, over all workers; one file always fits
    write_seconds: float = 2.0  # the result file is replaced at most this often
    stall_seconds: float = 600.0  # with every decoder idle and not a byte of the dataset read: the run ends without it

    def __post_init__(self) -> None:
        _require(self.workers >= 0, f"workers must be 0 (automatic) or more, got {self.workers}")
        _require(self.batch_views >= 0, f"batch_views must be 0 (automatic) or more, got {self.batch_views}")
        _require(self.jobs_ahead >= 1, f"jobs_ahead must be at least 1, got {self.jobs_ahead}")
