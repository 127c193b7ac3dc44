"""The GPU suite, which `pytest bench -m gpu` runs: programs, peers, floors, ceilings.

All of it also runs on a CPU with tiny models, which is how tests/bench prove that every program
that is timed computes what it should.
"""
