"""Train a model: ``python tools/train.py CONFIG``, with the options of mmaction2's own tools/train.py (--help).

It is that script, run with this package imported first, so that a config works with or without ``custom_imports``, and
with config, lists and checkpoints looked at before anything starts. A user's mistake is one message, no traceback.
"""
import sys

from tconv_mmaction.cli.main import run_script

if __name__ == '__main__':
    sys.exit(run_script('train.py', sys.argv[1:]))
