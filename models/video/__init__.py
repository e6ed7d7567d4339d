"""Video files in and out: read with limits, write the edited clip. No subprocess: FFmpeg's libraries through PyAV."""

from models.video.reading import Footage, Transform, read, working_size
from models.video.source import Limits, Probe, limited, probe
from models.video.writing import write

__all__ = ["Footage", "Limits", "Probe", "Transform", "limited", "probe", "read", "working_size", "write"]
