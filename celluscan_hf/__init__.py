"""CelluScan: single blood cells in 14 classes, as a data set, a model and a recipe for the Hugging Face world."""

from celluscan_hf.registration import register

__version__ = "0.1.0"

register()
