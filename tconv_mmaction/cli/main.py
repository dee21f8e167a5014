"""``python -m tconv_mmaction``: versions and what compat did; ``... run SCRIPT ARGS``: mmaction2's scripts with it."""
import argparse
import pickle
import sys
from typing import Optional, Sequence, Tuple

from ..setup_checks import SetupError
from . import doctor, mim_scripts


def run_script(name: str, arguments: Sequence[str], mistakes: Tuple[type, ...] = ()) -> int:
    """:func:`.mim_scripts.run_script`; a wrong setup, a refused file and ``mistakes`` are a message, no traceback."""
    try:
        mim_scripts.run_script(name, arguments)
    except (SetupError, pickle.UnpicklingError, *mistakes) as error:
        print(f'{type(error).__name__}: {error}', file=sys.stderr)
        return 1
    return 0


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='python -m tconv_mmaction', description=doctor.__doc__)
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    run = commands.add_parser('run', help="run one of mmaction2's own scripts with compat applied")
    run.add_argument('script', help='path below mmaction/.mim/tools, such as deployment/publish_model.py')
    run.add_argument('arguments', nargs=argparse.REMAINDER, help='what the script takes')
    args = parser.parse_args(arguments)
    if args.command is None:
        return doctor.main()
    return run_script(args.script, args.arguments, (FileNotFoundError, ))
