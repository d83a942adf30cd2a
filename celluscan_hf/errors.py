"""The two errors of the package: an invalid request, and an unusable image."""

from .modeling.errors_celluscan import BadImage, CelluScanError

__all__ = ["BadImage", "CelluScanError"]
