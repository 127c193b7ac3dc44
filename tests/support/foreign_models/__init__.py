"""Classes with the structure and names of public model packages that cannot be installed here."""
