"""Router learning: L2C's objective on a model's own branches."""

from l2c_rt.learning.train import learn

__all__ = ["learn"]
