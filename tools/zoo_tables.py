"""Write the model index: metafile.yml and the table in README.md of every folder of configs, and model-index.yml.

    python tools/zoo_tables.py            write them
    python tools/zoo_tables.py --check    exit status 1 if a file is not what would be written

Parameters and FLOPs come from the networks that the configs build (on PyTorch's 'meta' device, so nothing is computed),
accuracies and checkpoints from zoo/results.yml, which says what was trained here and by which command; how far other
seeds and folds are from a checkpoint, from the runs that it names. Everything else was not trained here, and the tables
say so. The table of the networks on real video in docs/zoo.md is written, too. The fields of the metafiles are those of
mmaction2's, which mim and MMEngine read.
"""
import argparse
import copy
import re
import sys
from pathlib import Path

import torch
import yaml
from mmaction.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

import tconv_mmaction  # noqa: F401  registers the networks
from tconv_mmaction.cli.run_log import read_runs
from tconv_mmaction.cli.run_statistics import fill_page, mean_std
from tconv_mmaction.layers import switch_to_deploy
from tconv_mmaction.utils.atomic import atomic_write_text
from tconv_mmaction.utils.complexity import count_complexity, count_parameters
from tconv_mmaction.utils.markdown import markdown_table

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r'(<!-- table[^>]*-->\n).*?(<!-- end of the table -->)', re.DOTALL)
ICLR = dict(URL='https://arxiv.org/abs/1912.04075', Title='Temporal Factorization of 3D Convolutional Kernels')
COLLECTIONS = {
    'lenet5': ('LeNet-5-3T', ICLR),
    'tconv3': ('3TConv', ICLR),
    'temporal_filters': ('Temporal filters', dict(
        URL='https://openaccess.thecvf.com/WACV2024',
        Title='Spatio-temporal Filter Analysis Improves 3D-CNN For Action Classification')),
    'clstm': ('C-LSTM', dict(
        URL='https://arxiv.org/abs/2002.00367',
        Title='Interpreting Video Features: A Comparison of 3D Convolutional Networks and Convolutional LSTM '
              'Networks')),
}
DATA = {'video-mnist': 'Video-MNIST', 'jester-rgb': 'Jester', 'ucf101-rgb': 'UCF101',
        'folder-rgb': 'a folder of videos', 'miracl-rgb': 'MIRACL-VC1 words', 'jhmdb5-rgb': 'J-HMDB, 5 classes',
        'sthv2-rgb': 'SthV2', 'mini-sthv2-rgb': 'mini-SthV2',
        'kinetics400-rgb': 'Kinetics-400', 'mini-kinetics400-rgb': 'mini-Kinetics-400', 'kth-rgb': 'KTH'}
REAL_VIDEO = ('miracl', 'jhmdb5')
NOT_TRAINED = 'not trained here'


class ClipsToScores(nn.Module):
    """Backbone and head of a recognizer, without the data preprocessor."""

    def __init__(self, recognizer: nn.Module) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, K)."""
        features, options = self.recognizer.extract_feat(clips[:, None], test_mode=True)
        return self.recognizer.cls_head(features, **options)


def clip_shape(config):
    """(C, T, H, W) of the clips that the config trains on, by its transforms."""
    dataset = config.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if dataset.type == 'VideoMNIST':
        return 1, 30, 28, 28
    frames = size = None
    for step in dataset.pipeline:
        frames = step.get('clip_len', frames)
        crop = step.get('crop_size', step.get('size'))
        if crop is not None:
            size = (crop, crop) if isinstance(crop, int) else (crop[1], crop[0])  # written as (width, height)
        elif step['type'] == 'Resize' and not step.get('keep_ratio', True):
            size = (step['scale'][1], step['scale'][0])
    if frames is None or size is None:
        raise ValueError(f'{config.filename}: the training pipeline does not say how large its clips are.')
    return 3, frames, *size


def measured(config):
    """Parameters as trained, parameters when deployed, and multiply-adds + 2 x norm outputs of one clip, deployed."""
    settings = copy.deepcopy(config.model)
    if settings.backbone.get('pretrained'):
        settings.backbone.pretrained = None
    settings.cls_head.pop('loss_cls', None)  # class weights come from the user's training list
    with torch.device('meta'):
        model = MODELS.build(settings)
        trained = count_parameters(model)
        model = switch_to_deploy(model.eval())
        flops = count_complexity(ClipsToScores(model), (1, *clip_shape(config))).total
    return trained, count_parameters(model), flops


def spread(result):
    """Accuracy forwards and backwards over the runs of a network, ``('48.1 ± 0.5 (6)', '52.6 ± 0.5')``; '' without."""
    if 'runs' not in result:
        return '', ''
    where = dict(result['runs'])
    log = ROOT / where.pop('log')
    runs = [run for run in read_runs(log) if all(run.get(key) == value for key, value in where.items())]
    if not runs:
        raise ValueError(f'{log} has no run of {where}, which zoo/results.yml names.')
    forward, backward = (mean_std([run[key] for run in runs]) for key in ('accuracy', 'accuracy_reversed'))
    return f'{forward} ({len(runs)})', backward


def real_video(results, data, parameters):
    """The table in docs/zoo.md of the networks on one set of real videos.

    Args:
        results: of zoo/results.yml.
        data: as it ends the configs' names.
        parameters: {name of a config: the number of its parameters as text}.
    """
    rows = []
    for name, result in results.items():
        if name.endswith(f'_{data}-rgb'):
            path = ROOT / result['weights']
            clips = round(100 * result['correct']['all'] / result['metrics']['Top 1 Accuracy'])
            forward, backward = (f'{100 * result["correct"][key] / clips:.1f}' for key in ('all', 'backwards'))
            rows.append([result['title'], parameters[name], f'`{path.name}`, {path.stat().st_size / 1e6:.1f} MB',
                         forward, backward, *spread(result)])
    return markdown_table(['network', 'parameters', 'file', 'accuracy', 'played backwards', 'all runs: accuracy (runs)',
                           'played backwards'], rows)


def entry(path, collection, results):
    """What the metafile says of one config, and the row of the table."""
    config = Config.fromfile(path)
    name = path.stem
    match = re.search(r'_(\d+)xb(\d+)-.*?(\d+)e_(.+)$', name)
    devices, _, epochs, data = match.groups()
    channels, frames, height, width = clip_shape(config)
    trained, deployed, flops = measured(config)
    backbone = config.model.backbone
    depth = {'TemporalResNet3d': f'ResNet{backbone.get("depth")}', 'GoogLeNet3d': 'GoogLeNet',
             'InceptionI3d': 'Inception-v1', 'R2Plus1d18': 'R(2+1)D-18', 'LeNet5': 'LeNet-5',
             'ConvLSTMNet': 'C-LSTM'}[backbone.type]
    pretrained = 'ImageNet' if 'imagenet-pretrained' in name else 'None'
    made = {
        'Name': name,
        'Config': path.relative_to(ROOT).as_posix(),
        'In Collection': collection,
        'Metadata': {
            'Architecture': depth,
            'Batch Size': config.train_dataloader.batch_size,
            'Epochs': int(epochs),
            'FLOPs': f'{flops / 1e9:.3g}G',
            'Parameters': f'{trained / 1e6:.3g}M',
            'Pretrained': pretrained,
            'Resolution': f'{height}x{width}',
            'Training Data': DATA[data],
            'Training Resources': f'{devices} GPU' + 's' * (devices != '1'),
        },
        'Modality': 'RGB' if channels == 3 else 'Grey',
        'Results': [{'Dataset': DATA[data], 'Task': 'Action Recognition', 'Metrics': {}}],
    }
    result = results.get(name)
    accuracy, checkpoint, others = NOT_TRAINED, '', ''
    if result:
        made['Metadata']['Training Resources'] = result['resources']
        made['Results'][0]['Metrics'] = result['metrics']
        made['Alias'] = [re.sub(r'-[0-9a-f]{8}$', '', Path(result['weights']).stem)]  # short, for the inferencer
        made['Weights'] = result['weights']
        accuracy = f'{result["metrics"]["Top 1 Accuracy"]:.2f}'
        checkpoint = f'[{Path(result["weights"]).name}](../../../{result["weights"]})'
        others = spread(result)[0]
    row = (f'[{name}]({path.name})', f'{frames}x{height}x{width}', f'{trained:,}',
           f'{deployed:,}' if deployed != trained else 'the same', f'{flops / 1e9:,.3g}', accuracy, others, checkpoint)
    return made, row


def table(rows):
    """A Markdown table; the columns of the checkpoint and of other runs only where there is something in them."""
    columns = ['config', 'clip (TxHxW)', 'parameters', 'deployed', 'GFLOPs', 'top-1, %', 'all runs', 'checkpoint']
    filled = [i for i, _ in enumerate(columns) if i < 6 or any(row[i] for row in rows)]
    columns, rows = [columns[i] for i in filled], [[row[i] for i in filled] for row in rows]
    return markdown_table(columns, rows) + '\n'


def files():
    """{path: text} of everything that this tool writes."""
    init_default_scope('mmaction')
    results = yaml.safe_load((ROOT / 'zoo/results.yml').read_text(encoding='utf-8'))
    made, parameters = {}, {}
    for folder, (collection, paper) in COLLECTIONS.items():
        where = ROOT / 'configs/recognition' / folder
        paths = sorted(p for p in where.glob('*.py') if not p.name.startswith('_base_'))
        entries, rows = zip(*(entry(path, collection, results) for path in paths))
        parameters.update((path.stem, row[2]) for path, row in zip(paths, rows))
        index = {'Collections': [{'Name': collection, 'README': f'configs/recognition/{folder}/README.md',
                                  'Paper': paper}], 'Models': list(entries)}
        head = '# Written by tools/zoo_tables.py. A model without Weights was not trained here.\n'
        made[where / 'metafile.yml'] = head + yaml.safe_dump(index, sort_keys=False, width=1000, allow_unicode=True)
        readme = (where / 'README.md').read_text(encoding='utf-8')
        if not TABLE.search(readme):
            raise ValueError(f'{where / "README.md"} has no place for its table: a line "<!-- table -->" and a line '
                             '"<!-- end of the table -->".')
        made[where / 'README.md'] = TABLE.sub(lambda m, rows=rows: m[1] + table(rows) + m[2], readme)
    unknown = sorted(set(results) - set(parameters))
    if unknown:
        raise ValueError(f'zoo/results.yml tells about {", ".join(unknown)}, and there is no such config.')
    page = ROOT / 'docs/zoo.md'
    made[page] = fill_page(page.read_text(encoding='utf-8'),
                           {data: real_video(results, data, parameters) for data in REAL_VIDEO})
    made[ROOT / 'model-index.yml'] = '# Written by tools/zoo_tables.py\n' + yaml.safe_dump(
        {'Import': [f'configs/recognition/{folder}/metafile.yml' for folder in COLLECTIONS]})
    return made


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing, name the files that would change')
    args = parser.parse_args(argv)
    changed = [(path, text) for path, text in files().items()
               if not path.is_file() or path.read_text(encoding='utf-8') != text]
    for path, text in changed:
        if not args.check:
            atomic_write_text(path, text)
        print(f'{"differs" if args.check else "written"}: {path.relative_to(ROOT)}')
    return 1 if args.check and changed else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except (ValueError, KeyError, FileNotFoundError) as error:
        print(f'zoo_tables: {error}', file=sys.stderr)
        sys.exit(2)
