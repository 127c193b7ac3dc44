"""Products and attention chosen by measurement, once per machine."""
