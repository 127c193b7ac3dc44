"""The fit report: the quality that a schedule costs."""
