"""What a schedule costs in quality: the fit report."""
