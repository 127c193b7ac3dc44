"""Installs a CPU build of torch into the Python that runs this: `install_torch.py VERSION INDEX`.

PyPI's own torch for Linux is a CUDA build of several GB, so PyTorch's index of CPU builds is asked
first. Where it cannot be reached (a mirror, a closed network), pip's configured index serves, and
the reason is printed. Asked once, in seconds: pip itself would retry for every dependency.
"""

from __future__ import annotations

import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

TIMEOUT = 10.0
"""Seconds that the index has to answer."""


def unreachable(index: str) -> str | None:
    """Why the index cannot be used; None where it answers, whatever it says: pip reports that."""
    try:
        with urlopen(f"{index.rstrip('/')}/torch/", timeout=TIMEOUT):
            return None
    except HTTPError:
        return None
    except (OSError, ValueError) as error:
        return str(error)


def install(version: str, index: str) -> None:
    """From the index, or from pip's configured one where the first does not answer."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", f"torch=={version}"]
    reason = unreachable(index)
    if reason is None:
        command += ["--index-url", index]
    else:
        print(f"{index} does not answer ({reason}): torch {version} comes from pip's own index.")
        print("A CUDA build from there needs its own triton: make TRITON=<version>.")
        print("A mirror of CPU builds: make TORCH_INDEX=<url>.", flush=True)
    subprocess.run(command, check=True)


if __name__ == "__main__":
    install(*sys.argv[1:])
