"""Whole pipelines of diffusers: their models compiled in place, and put back."""
