"""Uncached runs of a model, measured for the methods that decide by what they show."""
