"""What the papers print and what needs no data, beside ours: parameters, their savings, GFLOPs, sizes of feature maps.

    python tools/analysis/paper_tables.py [--table 3T] [--list]

Nothing is computed: the networks are built without memory, on PyTorch's 'meta' device. GFLOPs are (multiply-adds of
convolutions and the linear layer + 2 x outputs of batch norms) / 2^30 for a clip of 3x32x224x224. A row whose network
cannot be built here is named with the reason. Exit status 1 if a number differs from the paper's without a note.
The other tables of the papers are accuracies, statistics of trained networks, or settings.
"""
import argparse
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, List, Optional, Tuple, Union

import torch
from mmaction.registry import MODELS
from mmengine.registry import init_default_scope

import tconv_mmaction  # noqa: F401  registers the networks
from tconv_mmaction.utils.complexity import BackboneAndHead, count_complexity, count_parameters
from tconv_mmaction.utils.markdown import markdown_table

CLIP = (1, 3, 32, 224, 224)


@dataclass
class Row:
    """One line of a table: a network and what the paper prints.

    Attributes:
        backbone, head: their configs.
        parameters, gflops: as printed, None where the paper prints none.
        total: multiply-adds + 2 x norm outputs, the number behind ``gflops``; kept for the tests.
        note: why ours may differ.
    """
    name: str
    backbone: dict
    head: dict
    parameters: Optional[int] = None
    gflops: Optional[int] = None
    total: Optional[int] = None
    note: str = ''


@dataclass
class Saving:
    """A percentage of parameters that a text prints: ``ours`` has so many fewer than ``other``, rounded down."""
    text: str
    ours: Row
    other: Row
    percent: int
    note: str = ''


@dataclass
class Size:
    """The (channels, T, H, W) of a network's feature maps as printed, for a clip of 3 x ``clip``.

    Attributes:
        layers: names of modules of the backbone, whose outputs are printed.
        sizes: what the paper prints of each; a channel count of None is not printed.
    """
    text: str
    backbone: dict
    clip: Tuple[int, int, int]
    layers: Tuple[str, ...]
    sizes: Tuple[tuple, ...]


@dataclass
class Table:
    """A table of a paper, or numbers of its text; ``source`` says which."""
    name: str
    source: str
    rows: List[Union[Row, Saving, Size]] = field(default_factory=list)


CONV = {'3T': dict(type='Conv3T'), '3D': dict(type='Conv3d')}


def linear(features: int, classes: int) -> dict:
    """Global average pool and a linear layer."""
    return dict(type='I3DHead', in_channels=features, num_classes=classes)


def resnet18(kind: str) -> dict:
    """3T-/3D-ResNet18 of Ras et al."""
    return dict(type='TemporalResNet3d', depth=18, temporal_cfg=CONV[kind], temporal_kernels=(7, 3, 3, 3, 3),
                conv1_stride_t=2, pool1_kernel=(3, 3, 3), pool1_stride_t=2, temporal_strides=(1, 2, 2, 2))


def filters(depth: int, kernels: Tuple[int, ...], kind: str = 'Conv3d') -> dict:
    """I3D- and S3D-ResNet of Kobayashi and Ye."""
    return dict(type='TemporalResNet3d', depth=depth, temporal_kernels=kernels, temporal_cfg=dict(type=kind))


def jester_and_ucf101(name: str, backbone: dict, head: Callable[[int], dict], *parameters: int) -> List[Row]:
    """The two rows of a network in the 3TConv papers; ``head`` makes it for a number of classes."""
    return [Row(f'{name}, {data}', backbone, head(classes), count)
            for data, classes, count in zip(('Jester', 'UCF101'), (27, 101), parameters)]


def googlenet_head(classes: int) -> dict:
    """With both auxiliary classifiers, which the papers count."""
    return dict(type='GoogLeNetHead', num_classes=classes)


COUNTS = {row.name: row for row in (
    *jester_and_ucf101('3T-ResNet18', resnet18('3T'), partial(linear, 512), 11_222_619, 11_260_581),
    *jester_and_ucf101('3D-ResNet18', resnet18('3D'), partial(linear, 512), 33_217_755, 33_255_717),
    *jester_and_ucf101('3T-GoogLeNet', dict(type='GoogLeNet3d', temporal_cfg=CONV['3T']), googlenet_head,
                       7_419_121, 7_646_671),
    *jester_and_ucf101('3D-GoogLeNet', dict(type='GoogLeNet3d', temporal_cfg=CONV['3D']), googlenet_head,
                       14_078_833, 14_306_383),
    *jester_and_ucf101('R(2+1)D', dict(type='R2Plus1d18'), partial(linear, 512), 31_313_976, 31_351_938))}
LEFT = 'it is what is left of the parameters, not what is saved'

TABLES = [
    Table('3T', 'Ras et al., arXiv:1912.04075, Table 1; arXiv:2006.15983, Table 1 (27 and 101 classes)',
          list(COUNTS.values())),
    Table('savings', 'Ras et al., fewer parameters: arXiv:1912.04075, abstract, sec. 4.4; arXiv:2006.15983, sec. 4.1', [
        Saving('up to 77%', COUNTS['3T-GoogLeNet, Jester'], COUNTS['3D-ResNet18, Jester'], 77),
        Saving('75% fewer, GoogLeNet', COUNTS['3T-GoogLeNet, UCF101'], COUNTS['R(2+1)D, UCF101'], 75),
        Saving('33% fewer, ResNet18', COUNTS['3T-ResNet18, UCF101'], COUNTS['3D-ResNet18, UCF101'], 33, LEFT),
        Saving('53% fewer, GoogLeNet', COUNTS['3T-GoogLeNet, UCF101'], COUNTS['3D-GoogLeNet, UCF101'], 53, LEFT),
    ]),
    Table('filters', 'Kobayashi and Ye, WACV 2024, Table 2: I3D-ResNet50 by temporal lengths (1000 classes)', [
        Row(f'{name} {"-".join(map(str, kernels))}', filters(50, kernels), linear(2048, 1000), None, gflops, total,
            note)
        for name, kernels, gflops, total, note in (
            ('orig', (3, 3, 3, 3, 3), 240, 257_434_632_192, ''),
            ('a', (1, 3, 3, 3, 3), 233, 249_881_739_264, ''),
            ('b', (1, 1, 3, 3, 3), 212, 227_685_482_496, ''),
            ('c', (1, 1, 1, 3, 3), 184, 198_090_473_472, ''),
            ('d', (1, 1, 1, 1, 3), 143, 153_697_959_936, ''),
            ('2D', (1, 1, 1, 1, 1), 122, 131_501_703_168, ''),
            ('e', (3, 1, 1, 1, 1), 130, 139_054_596_096, ''),
            ('f', (3, 3, 1, 1, 1), 151, 161_250_852_864, 'the rule that gives all other rows gives 150 here'),
            ('g', (3, 3, 3, 1, 1), 178, 190_845_861_888, ''),
            ('h', (3, 3, 3, 3, 1), 219, 235_238_375_424, ''),
            ('b1', (1, 1, 3, 3, 5), 233, 249_881_739_264, ''),
            ('b2', (1, 1, 3, 5, 5), 274, 294_274_252_800, ''),
            ('b3', (1, 1, 5, 5, 5), 302, 323_869_261_824, ''),
            ('c1', (1, 1, 1, 3, 5), 205, 220_286_730_240, ''),
            ('c2', (1, 1, 1, 5, 5), 247, 264_679_243_776, ''))
    ]),
    Table('sizes', 'Kobayashi and Ye, WACV 2024, Table 1 and suppl. C; Broome et al., sec. 4.2: T x H x W', [
        *(Size(f'I3D-ResNet{depth}', filters(depth, (3, 3, 3, 3, 3)), (32, 224, 224),
               ('conv1', 'layer1', 'layer2', 'layer3', 'layer4'),
               ((64, 32, 112, 112), (width, 32, 56, 56), (2 * width, 32, 28, 28), (4 * width, 32, 14, 14),
                (8 * width, 32, 7, 7))) for depth, width in ((18, 64), (50, 256))),
        Size('I3D, L/8 of 64 frames', dict(type='InceptionI3d'), (64, 224, 224), ('Mixed_5c', ), ((None, 8, 7, 7), )),
        Size('I3D, L/2 of 16 frames', dict(type='InceptionI3d', temporal_strides=(1, 1, 2)), (16, 224, 224),
             ('Mixed_5c', ), ((None, 8, 7, 7), )),
    ]),
    Table('methods', 'Kobayashi and Ye, WACV 2024, Table 5: I3D- and S3D-ResNets (1000 classes)', [
        Row('I3D-ResNet18 3-3-3-3-3', filters(18, (3, 3, 3, 3, 3)), linear(512, 1000), None, 161, 173_028_233_216),
        Row('I3D-ResNet18 1-1-3-3-5', filters(18, (1, 1, 3, 3, 5)), linear(512, 1000), None, 151, 161_775_964_160),
        Row('I3D-ResNet50 3-3-3-3-3', filters(50, (3, 3, 3, 3, 3)), linear(2048, 1000), None, 240, 257_434_632_192),
        Row('I3D-ResNet50 1-1-3-3-5', filters(50, (1, 1, 3, 3, 5)), linear(2048, 1000), None, 233, 249_881_739_264),
        Row('S3D-ResNet50 3-3-3-3-3', filters(50, (3, 3, 3, 3, 3), 'SeparableConv3d'), linear(2048, 1000), None, 148,
            158_872_911_872),
        Row('S3D-ResNet50 1-1-3-3-5', filters(50, (1, 1, 3, 3, 5), 'SeparableConv3d'), linear(2048, 1000), None, 140,
            150_048_358_400),
    ]),
    Table('LSTM', 'Broome et al., arXiv:2002.00367, sec. 4.2: Something-something, 174 classes', [
        Row('I3D', dict(type='InceptionI3d'), linear(1024, 174), 12_465_614),
        Row('C-LSTM', dict(type='ConvLSTMNet', num_layers=3, hidden_channels=32, kernel_size=5, stride=2),
            dict(type='SequenceHead', num_classes=174, in_channels=32, feature_size=(3, 3), clip_len=16), 1_324_014),
    ]),
]


def build(row: Row) -> torch.nn.Module:
    """The network of a row, on the meta device."""
    init_default_scope('mmaction')
    with torch.device('meta'):
        return BackboneAndHead(MODELS.build(row.backbone), MODELS.build(row.head))


@torch.no_grad()
def feature_sizes(row: Size) -> List[tuple]:
    """(channels, T, H, W) of the layers' outputs."""
    init_default_scope('mmaction')
    with torch.device('meta'):
        net, found = MODELS.build(row.backbone).eval(), {}
        for name in row.layers:
            net.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, name=name: found.update({name: tuple(output.shape[1:])}))
        net(torch.empty(1, 3, *row.clip))
    return [found[name] for name in row.layers]


def print_savings(rows: List[Saving]) -> bool:
    """The percentages; whether all are as they should be."""
    agree, lines = True, []
    for row in rows:
        left = 100 * count_parameters(build(row.ours)) / count_parameters(build(row.other))
        verdict, good = compare(row.percent, float(int(100 - left)), row.note)
        lines.append([row.text, row.ours.name, row.other.name, row.percent, f'{100 - left:.1f}', f'{left:.1f}',
                      verdict])
        agree = agree and good
    print(markdown_table(['text', 'ours', 'against', 'paper, % fewer', 'ours, % fewer', 'left, %', ''], lines))
    return agree


def print_sizes(rows: List[Size]) -> bool:
    """The feature maps; whether all are as printed."""
    agree, lines = True, []
    for row in rows:
        for layer, printed, ours in zip(row.layers, row.sizes, feature_sizes(row)):
            same = all(p is None or p == o for p, o in zip(printed, ours))
            text = ' x '.join(str(p) for p in printed if p is not None)
            lines.append([row.text, layer, text, ' x '.join(map(str, ours)), 'same' if same else 'DIFFERS'])
            agree = agree and same
    print(markdown_table(['network', 'layer', 'paper', 'ours', ''], lines))
    return agree


def compare(printed: Optional[int], ours: Optional[float], note: str) -> Tuple[str, bool]:
    """The last column, and whether the row is as it should be."""
    if printed is None or ours is None or round(ours) == printed:
        return '' if printed is None or ours is None else 'same', True
    return f'differs: {note}' if note else 'DIFFERS', bool(note)


def print_table(table: Table) -> Tuple[bool, List[str]]:
    """Print one table as markdown; returns whether all rows agree, and the rows left out with the reason."""
    print(f'## {table.source}\n')
    for kind, show in ((Saving, print_savings), (Size, print_sizes)):
        if isinstance(table.rows[0], kind):
            agree = show(table.rows)
            print()
            return agree, []
    costs = any(row.gflops is not None for row in table.rows)
    agree, left_out, lines = True, [], []
    for row in table.rows:
        gone = [cfg['type'] for cfg in (row.backbone, row.head) if MODELS.get(cfg['type']) is None]
        if gone:
            left_out.append(f'{row.name}: there is no {" and no ".join(gone)} in the registry')
            continue
        try:
            model = build(row)
        except TypeError as error:  # the network is there, and this file does not know its arguments
            left_out.append(f'{row.name}: {error}')
            agree = False
            continue
        parameters = count_parameters(model)
        if costs:
            cost = count_complexity(model, CLIP)
            verdict, good = compare(row.gflops, cost.gflops, row.note)
            lines.append([row.name, row.gflops, f'{cost.gflops:.2f}', f'{cost.total:,}', f'{parameters:,}', verdict])
        else:
            verdict, good = compare(row.parameters, parameters, row.note)
            lines.append([row.name, f'{row.parameters:,}', f'{parameters:,}', verdict])
        agree = agree and good
    columns = (['model', 'paper, GFLOPs', 'ours, GFLOPs', 'ours, exactly', 'parameters', ''] if costs else
               ['model', 'paper, parameters', 'ours', ''])
    print(markdown_table(columns, lines) + '\n')
    return agree, left_out


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', action='append', choices=[table.name for table in TABLES],
                        help='print this table only; may be given again')
    parser.add_argument('--list', action='store_true', help='print the names of the tables and what they are')
    args = parser.parse_args(argv)
    if args.list:
        for table in TABLES:
            print(f'{table.name:10s}{table.source}')
        return 0
    agree, left_out = True, []
    for table in TABLES:
        if not args.table or table.name in args.table:
            good, missing = print_table(table)
            agree, left_out = agree and good, left_out + missing
    for line in left_out:
        print(f'left out: {line}')
    return 0 if agree else 1


if __name__ == '__main__':
    sys.exit(main())
