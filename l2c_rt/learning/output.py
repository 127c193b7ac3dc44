"""The folder of a learning run: log.csv, router.png, the checkpoint, and the router at the end."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from l2c_rt.figures import require_matplotlib
from l2c_rt.learning.checkpoint import save_checkpoint
from l2c_rt.learning.log import CsvLog, draw_scores
from l2c_rt.learning.state import LearnState
from l2c_rt.learning.task import Task

CHECKPOINT = "checkpoint.safetensors"
ROUTER = "router.safetensors"
LOG = "log.csv"
PICTURE = "router.png"
PICTURES = 6


def checked_folder(out: str | PathLike[str] | None, resume: bool, save_every: int) -> Path | None:
    """The folder, made; None where nothing is to be written."""
    if isinstance(save_every, bool) or not isinstance(save_every, int) or save_every < 1:
        raise ValueError(f"learn: save_every is {save_every!r:.40}, wanted an int of at least 1")
    if out is None:
        if resume:
            raise ValueError("learn: resume=True needs out=, the folder of the run to take up")
        return None
    require_matplotlib()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Output:
    """Writes what a run leaves behind; only the first process has one."""

    def __init__(self, folder: Path, task: Task, save_every: int, resumed_at: int) -> None:
        self._folder, self._task, self._save_every = folder, task, save_every
        self._log = CsvLog(folder / LOG, task.options.iterations, resumed_at)

    def begin_iteration(self, state: LearnState) -> None:
        """Keep and draw the scores where the picture wants them."""
        total = self._task.options.iterations
        pictured = {round(total * k / (PICTURES - 1)) for k in range(PICTURES)}
        known = {iteration for iteration, _ in state.snapshots}
        if state.iteration in pictured - known:
            scores = state.learned(self._task.options).sigmoid()
            state.snapshots.append((state.iteration, scores))
            names = self._task.bound_model.program.branch_names
            picture = self._folder / PICTURE
            draw_scores(picture, state.snapshots, sorted(self._task.rows), names)

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
