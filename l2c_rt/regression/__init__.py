"""Predictors of reused branches, fitted on calibration runs."""
