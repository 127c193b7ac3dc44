"""`make` takes torch from the index of CPU builds; where that does not answer, it says so."""

from __future__ import annotations

import runpy
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / ".ci" / "install_torch.py"))
install = SCRIPT["install"]


class Forbidding(BaseHTTPRequestHandler):
    """Answers, if only with an error: what to make of that is pip's business."""

    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Forbidding) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/whl/cpu"
        server.shutdown()
        thread.join()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would have been run."""
    found: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: found.append(command))
    return found


def test_an_index_that_answers_is_the_only_one_asked(
    index: str, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    install("2.13.0", index)
    assert commands[0][-3:] == ["torch==2.13.0", "--index-url", index]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("unanswered", ["http://127.0.0.1:1/whl/cpu", "nonsense"])
def test_where_it_does_not_answer_pip_decides_and_the_reason_is_printed(
    unanswered: str, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    install("2.13.0", unanswered)
    assert commands[0][-1] == "torch==2.13.0"
    said = capsys.readouterr().out
    assert unanswered in said
    assert "TORCH_INDEX" in said
