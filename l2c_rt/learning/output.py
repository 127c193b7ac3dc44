"""The folder of a learning run: log, pictures, checkpoint; at the end the router and its fit."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from l2c_rt.arguments import check_arguments
from l2c_rt.comparison.fit_report import FitReport
from l2c_rt.figures import has_matplotlib, save_figure
from l2c_rt.learning.checkpoint import save_checkpoint
from l2c_rt.learning.log import CsvLog, scores_figure
from l2c_rt.learning.state import LearnState
from l2c_rt.learning.task import Task
from l2c_rt.runtime.notices import Notices

CHECKPOINT = "checkpoint.safetensors"
ROUTER = "router.safetensors"
LOG = "log.csv"
PICTURE = "router.png"
PICTURES = 6
FIT, FIT_PICTURE = "fit.json", "fit.png"


def checked_folder(
    out: str | PathLike[str] | None, resume: bool, save_every: int, report: int
) -> Path | None:
    """The folder, not made yet; None where nothing is to be written."""
    check_arguments("learn", out=out, resume=resume, save_every=save_every, report=report)
    if out is None:
        if resume:
            raise ValueError("learn: resume=True needs out=, the folder of the run to take up")
        return None
    return Path(out)


class Output:
    """Writes what a run leaves behind; only the first process has one."""

    def __init__(self, folder: Path, task: Task, save_every: int, resumed_at: int) -> None:
        self._folder, self._task, self._save_every = folder, task, save_every
        self._draws = has_matplotlib()
        if not self._draws:
            Notices().tell([f"learn: {PICTURE} and {FIT_PICTURE} are not drawn, as matplotlib is "
                            "not installed: pip install l2c_rt[plot]"])  # fmt: skip
        self._log = CsvLog(folder / LOG, task.options.iterations, resumed_at)

    def begin_iteration(self, state: LearnState) -> None:
        """Keep and draw the scores where the picture wants them."""
        total = self._task.options.iterations
        pictured = {round(total * k / (PICTURES - 1)) for k in range(PICTURES)}
        known = {iteration for iteration, _ in state.snapshots}
        if state.iteration in pictured - known:
            scores = state.learned(self._task.options).sigmoid()
            state.snapshots.append((state.iteration, scores))
            if self._draws:
                names = self._task.bound_model.program.branch_names
                figure = scores_figure(state.snapshots, sorted(self._task.rows), names)
                save_figure(figure, self._folder / PICTURE, dpi=150)

    def end_iteration(self, state: LearnState) -> None:
        """Write a line, and the checkpoint where it is due."""
        self._log.add(
            state.iteration,
            loss=state.error + state.penalty,
            error=state.error,
            penalty=state.penalty,
            lam=state.lam,
            reused_share=state.reused_share,
            seconds=state.seconds,
        )
        last = state.iteration == self._task.options.iterations
        if last:
            self.begin_iteration(state)
        if last or state.iteration % self._save_every == 0:
            path, task = self._folder / CHECKPOINT, self._task
            save_checkpoint(path, state, task.options, task.fingerprint)

    def close(self) -> None:
        self._log.close()


def write_fit(folder: Path, report: FitReport) -> FitReport:
    """Write a fit report beside its router; its picture where matplotlib is installed."""
    report.save(folder / FIT)
    if has_matplotlib():
        report.plot(folder / FIT_PICTURE)
    return report
