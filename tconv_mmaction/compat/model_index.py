"""The models of this package by name: ``MMAction2Inferencer(rec='lenet5-3t_video-mnist')``.

MMEngine's inferencers look a name up in the model-index.yml of one package, that of their scope, which is mmaction for
all of mmaction2's. Names of ours are looked up in ours first; their configs and checkpoints lie in
:func:`~tconv_mmaction.utils.mim_folder.mim_folder`, and so need no download.
"""
import functools
from pathlib import Path
from typing import Any, Dict, Tuple

import yaml

from ..utils.mim_folder import mim_folder


def models() -> Dict[str, dict]:
    """Every model of the index by its name and by each alias, in lower case, as the inferencers compare them."""
    folder, found = mim_folder(), {}
    for path in yaml.safe_load((folder / 'model-index.yml').read_text(encoding='utf-8'))['Import']:
        for model in yaml.safe_load((folder / path).read_text(encoding='utf-8'))['Models']:
            for name in (model['Name'], *model.get('Alias', ())):
                found[name.lower()] = model
    return found


def _wrap_load(original: Any) -> Any:

    @functools.wraps(original)
    def _load_model_from_metafile(self: Any, model: str) -> Tuple[Any, Any]:
        """Config and weights of a model by name; those of tconv_mmaction first."""
        from mmengine.config import Config
        ours = models().get(str(model).lower())
        if ours is None:
            return original(self, model)
        if 'Weights' not in ours:
            named = sorted(name for name, entry in models().items() if 'Weights' in entry)
            raise ValueError(f'{model} is a config that was not trained, so there are no weights of it. Those with '
                             f'weights: {", ".join(named)}. For your own: rec=CONFIG.py, rec_weights=CHECKPOINT.pth.')
        return Config.fromfile(mim_folder() / ours['Config']), str(mim_folder() / Path(ours['Weights']))

    return _load_model_from_metafile


def apply() -> Tuple[bool, str]:
    """Look names up in this package's index before mmaction2's."""
    from mmengine.infer import BaseInferencer
    BaseInferencer._load_model_from_metafile = _wrap_load(BaseInferencer._load_model_from_metafile)
    return True, 'inferencers know the models of this package by name'
