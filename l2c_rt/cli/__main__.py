"""`python -m l2c_rt.cli`, where the command itself is not on the path."""

from l2c_rt.cli import main

main(prog_name="l2c-rt")
