"""Test a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``, with the options of mmaction2's own tools/test.py.

It is that script, run with this package imported first, so that a config works with or without ``custom_imports``, and
with config, lists and checkpoint looked at before anything starts. A user's mistake is one message, no traceback.
"""
import sys

from tconv_mmaction.cli.main import run_script

if __name__ == '__main__':
    sys.exit(run_script('test.py', sys.argv[1:]))
