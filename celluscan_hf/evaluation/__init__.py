"""Evaluation of a classifier: metrics with intervals, plots and a report."""
