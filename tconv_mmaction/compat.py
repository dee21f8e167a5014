"""Let released mmaction2 1.2 and mmengine 0.10 work on today's PyTorch."""
import sys
import types


def apply():
    name = 'mmaction.models.localizers.drn'
    import importlib.util
    import mmaction
    from pathlib import Path
    if (Path(mmaction.__file__).parent / 'models/localizers/drn').is_dir():
        return
    package, module = types.ModuleType(name), types.ModuleType(name + '.drn')

    class DRN:
        pass

    module.DRN = DRN
    package.drn = module
    package.__path__ = []
    sys.modules[name], sys.modules[name + '.drn'] = package, module
