"""EasyCache: a whole call is skipped while its output is estimated to change little."""

from __future__ import annotations

from dataclasses import dataclass

from l2c_rt.methods.checks import check_int, check_number
from l2c_rt.methods.deciding import Deciding
from l2c_rt.plan.decisions import At, Cut, Decided, Look, ModelFacts


@dataclass(frozen=True, slots=True)
class EasyCache(Deciding):
    """Gives input + (output - input of the last computed call) until the estimated change of the
    output adds up to `threshold`.

    The estimate at an evaluation is k mean |x - x'| / mean |v|: x' is the input of the evaluation
    before, v the last computed output, and k = mean |v - v'| / mean |x - x'| of the last two
    computed ones; the sum begins anew at every computed evaluation.  The first `ret_steps`
    evaluations and the last one are computed.  The first call of a step decides, the others follow
    it.  Published: 0.05 and 10 for Wan 2.1, 0.025 and 5 for HunyuanVideo.
    Of a model that also predicts variances (twice the channels out) v is the first half, as where
    the published program was run on DiT; the variances stay those of the last computed call, which
    is ours: the published models have none.
    Of a model whose input has conditions behind the latents (more channels in) x and v are as many
    channels as come out; of a list of images all count.
    Kept: output - input of each call, and x', x, v.  Needs: an output of the shape of the first
    argument, but for channels: tokens, images or frames, in whatever container.
    Source: arXiv 2507.02860; github H-EmbodVis/EasyCache.
    """

    threshold: float = 0.05
    ret_steps: int = 10

    granularity = "model"

    def __post_init__(self) -> None:
        check_number("EasyCache: threshold", self.threshold, 0)
        check_int("EasyCache: ret_steps", self.ret_steps, 1)

    def cut(self, facts: ModelFacts) -> Cut:
        return Cut(Look("call", measure="output change"))

    def begin(self) -> float:
        """The sum of the estimates."""
        return 0.0

    def forced(self, state: float, at: At) -> Decided | None:
        if at.first_call is not None:
            return Decided(at.first_call.row)
        is_last = at.step == at.steps - 1
        return Decided(0) if at.step < self.ret_steps or is_last else None

    def choose(self, state: float, at: At, metric: float) -> int:
        return int(state + metric < self.threshold)

    def after(self, state: float, at: At, done: Decided) -> float:
        return 0.0 if done.row == 0 else state + done.metric
