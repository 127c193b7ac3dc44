"""Cache memory: the arena's slots as tensors."""
