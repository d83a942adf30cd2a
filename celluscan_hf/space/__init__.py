"""The demo page and the facts it shows on each class of cell."""
