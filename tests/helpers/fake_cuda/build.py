"""Builds shim.cpp against the installed PyTorch, once per version, without importing it."""
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

from helpers.paths import ROOT

SOURCE = ROOT / 'tests/helpers/fake_cuda/shim.cpp'


def why_not() -> Optional[str]:
    """Why the shim cannot be built here, or None."""
    if os.name != 'posix' or shutil.which('g++') is None:
        return 'needs g++ to give PyTorch a CUDA device that does nothing'
    return None


def shim() -> Path:
    """The shared library, which is to be loaded before PyTorch: it asks for its CUDA hooks only once."""
    torch = Path(importlib.util.find_spec('torch').origin).parent
    version = re.search(r"__version__[^']*'([^']+)'", (torch / 'version.py').read_text())[1]
    digest = hashlib.sha256(SOURCE.read_bytes() + str(torch).encode()).hexdigest()[:12]
    library = Path(tempfile.gettempdir()) / f'tconv_fake_cuda_{os.getuid()}_{version}_{digest}.so'
    if not library.exists():
        part = library.with_suffix(f'.{os.getpid()}')
        include = torch / 'include'
        subprocess.run(['g++', '-O0', '-std=c++20', '-shared', '-fPIC', SOURCE, f'-I{include}',
                        f'-I{include}/torch/csrc/api/include', f'-L{torch}/lib', '-ltorch_cpu', '-lc10',
                        f'-Wl,-rpath,{torch}/lib', '-o', part], check=True)
        part.rename(library)
    return library
