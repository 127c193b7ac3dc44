"""`l2c-rt doctor`: whether this machine runs what it should, and runs it right."""

from __future__ import annotations

from pathlib import Path

import click

from l2c_rt.cli.checks import check_writable
from l2c_rt.cli.options import json_option

EXAMPLES = """\b
Examples:
  l2c-rt doctor
  l2c-rt doctor --json --out doctor.json

\b
Exit codes: 0 nothing failed (what could not be checked is a WARN), 1 something failed.
"""


@click.command("doctor", epilog=EXAMPLES)
@json_option
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Also a JSON file.")
def doctor_command(as_json: bool, out: Path | None) -> None:
    """Check this machine: versions, driver, cache memory, kernels, small models, rates.

    On a machine with a GPU it takes about a minute the first time, when kernels are compiled.
    """
    if out is not None:
        check_writable("--out", out, force=True)
    import json

    import torch

    from l2c_rt.doctor.diagnose import diagnose
    from l2c_rt.doctor.finding import any_failed, as_fields, as_table
    from l2c_rt.untrusted.atomic_write import write_whole

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    findings = list(diagnose(device))
    text = json.dumps(as_fields(findings), indent=1)
    if out is not None:
        write_whole(out, text + "\n")
    click.echo(text if as_json else as_table(findings))
    if any_failed(findings):
        raise click.exceptions.Exit(1)
