"""CelluScan: single blood cells in 14 classes, as dataset, model and recipes built on the Hugging Face stack."""

from celluscan_hf.bundled_model import default_model
from celluscan_hf.registration import register

__all__ = ["default_model"]

__version__ = "0.1.0"

register()
