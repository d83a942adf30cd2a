"""Calibration, conformal prediction sets, abstention and out-of-distribution detection for a trained model."""
