"""Experiments that audit results: leaks, shortcuts, other laboratories, wrong labels."""
