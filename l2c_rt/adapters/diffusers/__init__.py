"""Models of the diffusers package, described."""
