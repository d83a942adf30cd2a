"""The two ways something can be wrong: a request that cannot be met, and an image that cannot be used."""

from .modeling.errors_celluscan import BadImage

__all__ = ["BadImage", "CelluScanError"]


class CelluScanError(Exception):
    """A request cannot be met. The message is one line: what is wrong, what was expected, what to do."""
