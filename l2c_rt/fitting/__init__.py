"""Predictors fitted on calibration runs."""
