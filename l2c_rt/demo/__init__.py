"""A DiT trained on real digits, sampled with and without a learned cache."""
