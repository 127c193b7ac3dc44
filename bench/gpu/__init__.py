"""The GPU suite: what is measured, against what, and how the pages are made from the results.

`pytest bench -m gpu` runs it (bench_gpu.py); everything here also runs on a CPU with tiny models,
which is how tests/test_bench_gpu.py proves that the peers compute what they should.
"""
