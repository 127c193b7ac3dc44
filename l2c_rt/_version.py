"""The version, in a file that imports nothing: packaging, the commands and learning read it."""

__version__ = "0.1.0"
