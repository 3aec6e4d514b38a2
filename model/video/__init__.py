"""Video: reading, views, networks, the detector."""

from .clip import Clip
from .reading import read_clip

__all__ = ["Clip", "read_clip"]
