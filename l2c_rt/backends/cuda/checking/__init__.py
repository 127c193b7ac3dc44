"""The first run on a machine: every kernel against its meaning, and a step against the model."""
