"""Choices by measurement, remembered between runs: what the backends share."""
