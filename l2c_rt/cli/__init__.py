"""The command `l2c-rt`.

A command module imports click at its top and everything else inside its function, so that
`l2c-rt --help` is quick and torch is imported only by commands that run a model.
"""

from __future__ import annotations

import click

from l2c_rt._version import __version__
from l2c_rt.cli.bench import bench_command
from l2c_rt.cli.calibrate import calibrate_command
from l2c_rt.cli.compare import compare_command
from l2c_rt.cli.convert import convert_command
from l2c_rt.cli.demo import demo_command
from l2c_rt.cli.doctor import doctor_command
from l2c_rt.cli.exits import ExitCodes
from l2c_rt.cli.fit import fit_command
from l2c_rt.cli.inspect import inspect_command
from l2c_rt.cli.learn import learn_command
from l2c_rt.cli.sample import sample_command
from l2c_rt.cli.search import search_command
from l2c_rt.cli.tune import tune_command

EXAMPLES = """\b
Examples:
  l2c-rt inspect l2c/dit-xl-2-256/ddim-50
  l2c-rt convert DDIM50_router.pt ddim-50.json
  l2c-rt sample digits -o digits.png
  l2c-rt compare digits/ddim-20 --reuse 0.25,0.45,0.65
  l2c-rt demo

\b
Exit codes: 0 done, 2 an option or argument has to change, 3 a file that cannot be read as what it
should be, 4 model and schedule do not fit each other, 1 anything else.
"""


@click.group(cls=ExitCodes, epilog=EXAMPLES)
@click.version_option(__version__, prog_name="l2c-rt", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Run a diffusion transformer on a learned cache schedule, inspect and learn schedules."""


for command in (
    inspect_command,
    convert_command,
    learn_command,
    calibrate_command,
    fit_command,
    search_command,
    sample_command,
    compare_command,
    bench_command,
    doctor_command,
    tune_command,
    demo_command,
):
    main.add_command(command)
