"""The makers of schedules: rules of fixed form, their controls, and learned routers."""

from l2c_rt.policies.baselines import NoisiestFirst, Random
from l2c_rt.policies.deep_cache import DeepCache, NonUniform, nonuniform
from l2c_rt.policies.policy import Policy
from l2c_rt.policies.static import EveryN, Full

__all__ = [
    "DeepCache",
    "EveryN",
    "Full",
    "NoisiestFirst",
    "NonUniform",
    "Policy",
    "Random",
    "nonuniform",
]
