"""Experiments that ask whether a figure can be trusted: leaks, shortcuts, other laboratories, wrong labels."""
