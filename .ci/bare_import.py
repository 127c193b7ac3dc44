"""An installed wheel works where numpy and click are there and neither torch nor a GPU is."""

from __future__ import annotations

import sys

import l2c_rt
import l2c_rt._C
import l2c_rt.kernels

schedule = l2c_rt.presets.load("l2c/dit-xl-2-256/ddim-50")
assert "torch" not in sys.modules
print(l2c_rt.__version__, l2c_rt._C.cuda_available(), schedule.steps, schedule.num_branches)
