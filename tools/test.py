"""Test a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``, with the options of mmaction2's own tools/test.py.

It is that script, run with this package imported first, so that a config works with or without ``custom_imports``.
"""
import sys

from tconv_mmaction.mim_scripts import run_script

if __name__ == '__main__':
    run_script('test.py', sys.argv[1:])
