import runpy
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
VERSION = runpy.run_path(str(ROOT / 'tconv_mmaction/version.py'))
MIM = runpy.run_path(str(ROOT / 'tconv_mmaction/utils/mim_folder.py'))


class BuildWithMim(build_py):
    """Configs, tools, model-index.yml and zoo below ``tconv_mmaction/.mim``: links for ``pip install -e``, else copies.

    As mmaction2 has them there; mim, ``tconv_mmaction::`` in configs and the command ``tconv`` look for them.
    """

    def run(self):
        super().run()
        if self.editable_mode:
            MIM['fill'](ROOT, ROOT / 'tconv_mmaction/.mim', link=True)
        else:
            MIM['fill'](ROOT, Path(self.build_lib) / 'tconv_mmaction/.mim', link=False)



setup(
    name='tconv-mmaction',
    version=VERSION['__version__'],
    description='How video networks use time: temporal convolutions and their analysis for mmaction2',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['tconv_mmaction', 'tconv_mmaction.*']),
    package_data={'tconv_mmaction': ['py.typed'], 'tconv_mmaction.interpret.report': ['*.html']},
    cmdclass={'build_py': BuildWithMim},
    entry_points={'console_scripts': ['tconv=tconv_mmaction.cli.main:main']},
    python_requires='>=3.9',
    install_requires=[
        'torch>=2.4',
        'mmaction2>=1.2.0,<1.3',
        'decord>=0.6.0',  # clips are read with it
        'importlib_metadata',  # mmaction2 1.2.0 imports it and does not ask for it
        'matplotlib',
        # OpenCV comes with mmaction2
        'numpy',
        'packaging',
        'pandas',
        'scikit-learn',  # handwritten digits for VideoMNIST, F1 score
        'scipy',
    ],
    # mmcv and mmengine are no hard requirements: full mmcv, mmcv-lite and onedl-mmcv are the same package to Python,
    # as are mmengine and onedl-mmengine, and installing one over the other breaks both. Who has none takes `lite`.
    extras_require={
        'lite': ['mmcv-lite>=2.1.0,<2.2.0', 'mmengine>=0.10.4,<1.0'],
        'tests': ['pytest', 'pytest-timeout', 'pytest-xdist', 'hypothesis', 'psutil', 'captum', 'tensorboard', 'onnx',
                  'onnxruntime', 'ruff', 'av'],
        'docs': ['mkdocs-material', 'mkdocstrings[python]', 'latex2mathml'],
        'viz': ['captum', 'tensorboard'],
        'video': ['av'],  # the second decoder: DecordInit(decoder='pyav')
        'completion': ['shtab'],
    },
)
