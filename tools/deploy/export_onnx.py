"""Export a trained recognizer to ONNX or by torch.export, fused and checked.

    python tools/deploy/export_onnx.py CONFIG CHECKPOINT OUT.onnx [--shape 30 150 224]
    python tools/deploy/export_onnx.py CONFIG CHECKPOINT OUT.pt2

The re-parameterised layers become plain convolutions first. OUT.onnx is for onnxruntime and other runtimes; OUT.pt2 for
torch.export.load(OUT.pt2).module(), which needs PyTorch and neither mmaction2 nor this package. Either file takes
'clips' (N, C, T, H, W), float32, the pixels as the config's test pipeline delivers them (0 to 255; the normalisation is
inside), and gives 'scores' (N, K): those that test_step calls pred_score, so softmax scores where the head has
average_clips='prob'. N is free, T, H and W are those of --shape. Before OUT is written, onnxruntime, or the program
read back, must agree with the net of the checkpoint on random clips in batches of 1 and 3.
"""
import argparse
import io
import sys
import warnings
from pathlib import Path

import torch
from mmengine.config import DictAction
from torch import Tensor, nn

import tconv_mmaction  # noqa: F401  registers the networks
from tconv_mmaction.cli.mistakes import exit_code
from tconv_mmaction.layers import switch_to_deploy
from tconv_mmaction.utils.atomic import atomic_write_bytes
from tconv_mmaction.utils.config_file import read_config

FORMATS = {'.onnx': 'onnxruntime', '.pt2': 'torch.export.load'}  # ending of the file -> what must agree with the net


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config that the checkpoint was trained with')
    parser.add_argument('checkpoint', help='the trained weights')
    parser.add_argument('out', help='file to write: .onnx, or .pt2 for torch.export')
    parser.add_argument('--shape', type=int, nargs=3, metavar=('T', 'H', 'W'),
                        help='frames, rows, columns (default: what the test pipeline of the config gives)')
    parser.add_argument('--opset', type=int, default=17, help='version of the ONNX operators (default 17)')
    parser.add_argument('--tolerance', type=float, default=1e-4,
                        help='largest difference to allow, relative to how far the scores of classes lie apart')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='changes to the config, key=value')
    args = parser.parse_args(argv)
    if Path(args.out).suffix not in FORMATS:
        parser.error(f'OUT must end in .onnx or .pt2, got {args.out}')
    if args.shape and min(args.shape) < 1:
        parser.error(f'--shape must be three positive integers, got {args.shape}')
    return args


def shape_of_the_pipeline(config):
    """(T, H, W) that the test pipeline delivers, read from its transforms.

    Raises:
        ValueError: if they do not say it: Resize with keep_ratio, or transforms of one's own.
    """
    frames = size = None
    loader = config.get('test_dataloader') or {}
    for transform in loader.get('dataset', {}).get('pipeline') or ():
        frames = transform.get('clip_len', frames)
        if 'crop_size' in transform:
            crop = transform['crop_size']
            size = (crop, crop) if isinstance(crop, int) else (crop[1], crop[0])  # mmaction2 says (width, height)
        elif transform['type'] == 'Resize':
            scale = transform['scale']
            size = None if transform.get('keep_ratio', True) else (scale[1], scale[0])
    if frames is None or size is None:
        raise ValueError('the test pipeline of the config does not say how large its clips are; give --shape T H W.')
    return frames, *size


class ClipsToScores(nn.Module):
    """A recognizer as one function of the pixels: normalise, backbone, head, and softmax if the head predicts so."""

    def __init__(self, recognizer: nn.Module) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, clips: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, K)."""
        preprocessor = self.recognizer.data_preprocessor
        if preprocessor.to_rgb:
            clips = clips.flip(1)
        if preprocessor._enable_normalize:
            clips = (clips - preprocessor.mean) / preprocessor.std
        features, options = self.recognizer.extract_feat(clips[:, None], test_mode=True)  # one view of each clip
        scores = self.recognizer.cls_head(features, **options)
        return scores.softmax(1) if self.recognizer.cls_head.average_clips == 'prob' else scores


def load(args):
    """The recognizer in eval mode, and its config."""
    from mmaction.registry import MODELS
    from mmengine.registry import init_default_scope
    from mmengine.runner.checkpoint import CheckpointLoader
    config = read_config(args.config)
    config.merge_from_dict(args.cfg_options or {})
    init_default_scope(config.get('default_scope', 'mmaction'))
    if config.model.get('backbone', {}).get('pretrained'):
        config.model.backbone.pretrained = None
    if config.model.get('type') != 'Recognizer3D':
        raise ValueError(f'{args.config}: only Recognizer3D takes clips (N, C, T, H, W), not '
                         f"{config.model.get('type')}.")
    model = MODELS.build(config.model)
    checkpoint = CheckpointLoader.load_checkpoint(args.checkpoint, map_location='cpu')
    given = checkpoint.get('state_dict', checkpoint)
    try:
        model.load_state_dict({key[7:] if key.startswith('module.') else key: value for key, value in given.items()})
    except RuntimeError as error:
        raise ValueError(f'{args.checkpoint} does not fit {args.config}: {error}') from error
    return model.eval(), config


@torch.no_grad()
def export(model: nn.Module, shape, opset: int) -> bytes:
    """The ONNX file for clips (N, \\*shape), N free."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # checks of shapes become constants, which is what a fixed (T, H, W) means; this exporter needs no onnxscript
        warnings.filterwarnings('ignore', category=torch.jit.TracerWarning)
        warnings.filterwarnings('ignore', category=DeprecationWarning)
        torch.onnx.export(ClipsToScores(model).eval(), (torch.zeros(2, *shape), ), buffer, dynamo=False,
                          opset_version=opset, input_names=['clips'], output_names=['scores'],
                          dynamic_axes={'clips': {0: 'N'}, 'scores': {0: 'N'}})
    return buffer.getvalue()


@torch.no_grad()
def export_program(model: nn.Module, shape) -> bytes:
    """The .pt2 file of ``torch.export`` for clips (N, \\*shape), N free."""
    buffer = io.BytesIO()
    program = torch.export.export(ClipsToScores(model).eval(), (torch.zeros(2, *shape), ), strict=False,
                                  dynamic_shapes=dict(clips={0: torch.export.Dim('N', min=1)}))
    torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_scores(onnx: bytes):
    """The file as a function: clips, float32 -> scores."""
    import onnxruntime
    session = onnxruntime.InferenceSession(onnx, providers=['CPUExecutionProvider'])
    return lambda clips: torch.from_numpy(session.run(['scores'], {'clips': clips.numpy()})[0])


def program_scores(program: bytes):
    """The file as a function: clips, float32 -> scores."""
    return torch.export.load(io.BytesIO(program)).module()


@torch.no_grad()
def difference(model: nn.Module, scores, shape, batch: int) -> float:
    """Between ``scores(clips)`` and ``model.test_step``, relative to how far the scores of classes lie apart."""
    from mmaction.structures import ActionDataSample
    clips = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8)
    samples = model.test_step(dict(inputs=list(clips[:, None]), data_samples=[ActionDataSample() for _ in clips]))
    want = torch.stack([sample.pred_score.flatten() for sample in samples])
    got = scores(clips.float())
    if got.shape != want.shape:
        raise ValueError(f'the exported net gives {tuple(got.shape)} for {batch} clips, the net {tuple(want.shape)}.')
    apart = (want - want.mean(1, keepdim=True)).abs().max().item()
    return (got - want).abs().max().item() / (apart or 1)


def main(argv=None):
    args = parse_args(argv)
    to_onnx = Path(args.out).suffix == '.onnx'
    if to_onnx:
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise ImportError(f'{error}. pip install onnx onnxruntime') from error
    model, config = load(args)
    preprocessor = model.data_preprocessor
    channels = preprocessor.mean.numel() if getattr(preprocessor, '_enable_normalize', False) else 3
    shape = channels, *(args.shape or shape_of_the_pipeline(config))
    count = sum(hasattr(module, 'switch_to_deploy') for module in model.modules())
    fused = switch_to_deploy(model)
    data = export(fused, shape, args.opset) if to_onnx else export_program(fused, shape)
    scores, runtime = (onnx_scores if to_onnx else program_scores)(data), FORMATS[Path(args.out).suffix]
    worst = max(difference(model, scores, shape, batch) for batch in (1, 3))
    if not worst <= args.tolerance:  # also where it is NaN
        raise ValueError(f'{runtime} differs from the net of {args.checkpoint} by {worst:.1e}, more than --tolerance '
                         f'{args.tolerance:.1e}. {args.out} is not written.')
    atomic_write_bytes(args.out, data)
    print(f"{count} layers fused; 'clips' (N, {', '.join(map(str, shape))}) -> 'scores' (N, "
          f'{model.cls_head.num_classes}); {runtime} differs by {worst:.1e}\nwritten to {args.out}')


if __name__ == '__main__':
    sys.exit(exit_code(main))
