"""Columns of the dataset for the library `datasets`."""

from datasets import Features

from .schema import SCHEMA

FEATURES = Features.from_arrow_schema(SCHEMA)
