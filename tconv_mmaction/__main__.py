"""``python -m tconv_mmaction``: :mod:`tconv_mmaction.cli.main`."""
import sys

from .cli.main import main, run_script

__all__ = ['main', 'run_script']

if __name__ == '__main__':
    sys.exit(main())
