"""Rename a public 3D checkpoint, classifier included, for a whole recognizer: r2plus1d_18, r3d_18, PyTorch I3D.

    python tools/convert/public_3d.py r2plus1d_18-91a641e6.pth r2plus1d18_kinetics400.pth
    python tools/test.py CONFIG r2plus1d18_kinetics400.pth

``pretrained=`` of R2Plus1d18 and InceptionI3d takes the public files as they are and leaves the classifier out; this
tool is for who wants it too. The names are in tconv_mmaction/backbones/key_maps.py.
"""
import argparse
import io
import sys

import torch

import tconv_mmaction
from tconv_mmaction.backbones.inflation import read_state_dict
from tconv_mmaction.backbones.key_maps import recognizer_state_dict
from tconv_mmaction.utils.atomic import atomic_write_bytes


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='path or URL of the public file')
    parser.add_argument('out', help='file to write')
    args = parser.parse_args(argv)
    state_dict = recognizer_state_dict(read_state_dict(args.checkpoint, prefix=''))
    buffer = io.BytesIO()
    meta = dict(converted_from=str(args.checkpoint), tconv_mmaction=tconv_mmaction.__version__)
    torch.save(dict(state_dict=state_dict, meta=meta), buffer)
    atomic_write_bytes(args.out, buffer.getvalue())
    head = [name for name in state_dict if name.startswith('cls_head.')]
    print(f'{len(state_dict)} tensors, {len(head)} of them of the classifier, written to {args.out}')


if __name__ == '__main__':
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        print(f'public_3d: {error}', file=sys.stderr)
        sys.exit(2)
