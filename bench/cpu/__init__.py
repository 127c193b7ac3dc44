"""What the CPU benchmarks compare: cases, peers, and parts of our own run."""
