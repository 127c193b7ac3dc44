"""Whether this machine runs what it should, and runs it right: `l2c-rt doctor`."""
