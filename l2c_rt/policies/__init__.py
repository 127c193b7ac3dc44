"""The makers of schedules: rules of fixed form, their controls, and learned routers."""

from l2c_rt.policies.baselines import NoisiestFirst, Random
from l2c_rt.policies.policy import Policy
from l2c_rt.policies.static import EveryN, Full

__all__ = ["EveryN", "Full", "NoisiestFirst", "Policy", "Random"]
