"""What runs leave behind: their records, read back as frames, and compared with the published numbers."""

from lit_fa.results.frames import frame

__all__ = ["frame"]
