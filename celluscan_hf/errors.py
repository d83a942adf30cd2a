"""The two errors of the package: an invalid request, and an unusable image."""

from .modeling.errors_celluscan import BadImage

__all__ = ["BadImage", "CelluScanError"]


class CelluScanError(Exception):
    """An invalid request. The message is one line: what is wrong, what was expected, what to do."""
