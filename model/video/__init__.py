"""Video: reading, views, networks, the detector."""

from .reading import Clip, RefusedError, VideoReadError, read_clip

__all__ = ["Clip", "RefusedError", "VideoReadError", "read_clip"]
