"""The former place of `celluscan_hf.workers`, for modules that import `progress` from here."""

from ..workers import progress

__all__ = ["progress"]
