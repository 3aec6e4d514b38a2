"""A detector that costs nothing, for tests of the fleet: the score is told by the frames' mean level."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.config import LimitsConfig, SamplingConfig
from model.modality import Preparation
from model.run.pipeline import Scored
from model.video.prepare import VideoPreparation
from model.video.views import ViewConfig

VIEWS = ViewConfig(num_patches=1, num_resized=1, num_frames=2, size=32, resized_size=32)


@dataclass
class LevelScorer:
    """A `Scorer`. deadly: id of a clip that kills the process. touched: a file that gets a line a clip. seconds: a clip
    takes, as on a device of its own. gate: a file that is waited for at each clip.
    """

    deadly: str = ""
    touched: str = ""
    seconds: float = 0.0
    gate: str = ""
    network_seconds: float = 0.0

    def add(self, clip_id: str, content: np.ndarray) -> Iterator[Scored]:
        if self.touched:
            with open(self.touched, "a") as file:
                file.write(f"{os.getpid()} {clip_id}\n")
        if self.deadly and self.deadly == clip_id:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        while self.gate and not os.path.exists(self.gate):
            time.sleep(0.05)
        yield Scored(clip_id, float(content.mean()) - 127.5)

    def flush(self) -> Iterator[Scored]:
        return iter(())


@dataclass(frozen=True)
class BuildStandIn:
    """What `BuildConfig` is, without networks."""

    deadly: str = ""
    touched: str = ""
    seconds: float = 0.0
    gate: str = ""

    def __call__(self) -> tuple[Preparation, LevelScorer]:
        return VideoPreparation(SamplingConfig(), LimitsConfig(), VIEWS), LevelScorer(
            self.deadly, self.touched, self.seconds, self.gate
        )
