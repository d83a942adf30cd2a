"""The metric, a folder of its own so that `evaluate.load` finds it."""
