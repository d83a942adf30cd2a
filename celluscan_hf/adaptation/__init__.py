"""A trained model for another microscope, from a few of its cells."""
