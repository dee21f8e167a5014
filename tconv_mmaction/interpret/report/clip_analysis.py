"""All methods on one clip, as numbers and small pictures for the report page.

Grad-CAM over time and the temporal mask are those of Maenttaeri et al. (ACCV 2020); saliency and motion paths of the
most active channels of 3T networks follow Ras et al. (arXiv:2006.15983, Fig. 3). :func:`analyse_clip` runs them;
:mod:`.report_page` writes the page. Pictures are kept as data URIs, so that a report over many clips holds no video.
"""
import base64
import warnings
from typing import List, NamedTuple, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from ..access.adapters import as_score_function
from ..access.clips import Clip
from ..access.default_layer import last_map_layer
from ..access.feature_maps import layer_output
from ..access.modules import choose_target, frozen
from ..grad_cam import grad_cam, normalise_maps, nothing_speaks, upsample_maps
from ..integrated_gradients import integrated_gradients
from ..model_motion import explained_text, is_fitted, steps_to_show, to_show
from ..pictures.rendering import heat, overlay
from ..saliency import most_active_channels, strongest_frame
from ..temporal_mask import find_temporal_mask
from ..temporal_parameters import kernel_sizes, temporal_parameters
from ..trajectories import Parameters, Trajectory, filter_trajectory, moving_filters

LONGEST_SIDE = 224  # pixels
JPEG_QUALITY = 80
LOSSLESS_PIXELS = 64 * 64  # frames up to here are a few pixels per object: JPEG would smear them, PNG is small


class ChannelReport(NamedTuple):
    """One channel of a 3T layer on one clip."""
    layer: str
    channel: int
    activation: float  # mean over time and space of the positive part
    frame: int  # with the strongest saliency
    picture: str  # that frame, data URI
    saliency: str  # integrated gradients: what the positive part of the channel's output depends on
    trajectory: Optional[Trajectory]  # None where a fitted motion is not above the null, or no step is used
    note: str = ''  # of a fitted layer: how much of the filter's weight its motion explains


class ClipAnalysis(NamedTuple):
    """What one model makes of one clip of T frames and K classes. Frames are counted from 0."""
    frames: List[str]  # T data URIs
    painted: List[str]  # the same with Grad-CAM
    size: Tuple[int, int]  # height and width of these pictures
    scores: np.ndarray  # (K,) softmax
    target: int  # the class of Grad-CAM and mask
    label: Optional[int]
    layer: str  # of Grad-CAM
    attention: np.ndarray  # (T,) mean of each frame's map, the maps in [0, 1] with the clip's maximum at 1
    mask: np.ndarray  # (T,) in [0, 1]
    runs: List[Tuple[int, int]]  # (start, stop) of the frames in the mask
    original: float  # OS
    freeze: float  # FS
    reverse: float  # RS
    iterations: int
    channels: List[ChannelReport]  # empty for networks without 3T layers
    notes: List[str]  # warnings of the methods
    silent: bool = False  # the maps are nowhere positive: nothing in the layer speaks for the class


def data_uri(image: np.ndarray) -> str:
    """An RGB image (H, W, 3) uint8 as ``data:``: JPEG, or PNG where it is tiny.

    Raises:
        RuntimeError: if OpenCV cannot encode it.
    """
    small = image.shape[0] * image.shape[1] <= LOSSLESS_PIXELS
    ending, options = ('.png', []) if small else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    done, data = cv2.imencode(ending, np.ascontiguousarray(image[..., ::-1]), options)
    if not done:
        raise RuntimeError(f'OpenCV {cv2.__version__} cannot encode an image of {image.shape}.')
    kind = 'png' if small else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode("ascii")}'


def downscaled(images: np.ndarray, longest: int = LONGEST_SIDE) -> np.ndarray:
    """Frames (T, H, W, 3) whose longer side has at most so many pixels; smaller ones as they are."""
    height, width = images.shape[1:3]
    factor = longest / max(height, width)
    if factor >= 1:
        return images
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.stack([cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA) for image in images])


def default_channel_layers(model: nn.Module, parameters: Optional[Parameters] = None) -> List[str]:
    """The first and the last 3T layer with kT > 1: what follows pixels, and what the decision rests on."""
    parameters = temporal_parameters(model) if parameters is None else parameters
    layers = [name for name, values in parameters.items() if steps_to_show(values)]
    return list(dict.fromkeys(layers[:1] + layers[-1:]))


class _PositiveParts(nn.Module):
    """Mean over time and space of the positive part of a layer's channels: what ``most_active_channels`` ranks.

    The plain mean of a convolution has the same gradient for every clip (it is linear); its positive part does not.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.score_fn = as_score_function(model, 'logits')

    def forward(self, clip: Tensor) -> Tensor:
        return layer_output(self.model, self.score_fn, self.layer, clip).relu().mean((2, 3, 4))


def _channels(model: nn.Module, clip: Clip, pictures: np.ndarray, layer: str, count: int, known: Parameters,
              moving_first: bool) -> List[ChannelReport]:
    parameters = known.get(layer)
    if parameters is None or not parameters['scale'].numel():
        raise ValueError(f'{layer!r} is no 3T layer with kT > 1 of this model; these are the first and the last: '
                         f'{default_channel_layers(model, known)}.')
    size = kernel_sizes(model, is_fitted(parameters))[layer]
    active = most_active_channels(model, clip.inputs, layer, parameters['scale'].shape[1] if moving_first else count)
    order = list(range(active.channels.shape[1]))
    if moving_first:
        moves = moving_filters(parameters, size)[active.channels[0].cpu()].tolist()
        order.sort(key=lambda place: not moves[place])  # stable: the most active of each kind first
    channels = active.channels[0][order[:count]].tolist()
    parts = _PositiveParts(model, layer)
    # the gradient of a channel of a first layer is a pattern of its stride, see channel_saliency
    maps = torch.cat([integrated_gradients(parts, clip.inputs, channel) for channel in channels])  # channels, T, H, W
    found = []
    for channel, activation, map_, frame in zip(channels, active.activations[0][order[:count]].tolist(), maps.cpu(),
                                                strongest_frame(maps).tolist()):
        image = downscaled(heat(map_[frame:frame + 1].numpy()))[0]
        shown = to_show(parameters)[channel] and steps_to_show(parameters) > 0
        trajectory = filter_trajectory(parameters, channel, size) if shown else None
        found.append(ChannelReport(layer, channel, activation, frame, data_uri(pictures[frame]), data_uri(image),
                                   trajectory, explained_text(parameters, channel)))
    return found


def analyse_clip(model: nn.Module, clip: Clip, target: Union[int, str, Tensor] = 'prediction',
                 layer: Optional[str] = None, channel_layers: Optional[Sequence[str]] = None, channels: int = 4,
                 iterations: int = 300, threshold: float = 0.1, parameters: Optional[Parameters] = None,
                 moving_first: bool = False) -> ClipAnalysis:
    """Scores, Grad-CAM, temporal mask and, for 3T networks, the most active channels of one clip.

    Args:
        model: a recognizer of mmaction2.
        clip: from ``ClipReader``; T >= 2.
        target: the class of Grad-CAM and mask: an index, or 'prediction'.
        layer: of Grad-CAM; by default the backbone's last one with maps.
        channel_layers: 3T layers whose channels to show; by default the first and the last of which the clip uses a
            step. Networks without any have no channels.
        channels: how many per layer; 0 for none.
        iterations: of the mask search, at most.
        threshold: from which value a frame is in the mask.
        parameters: by default ``temporal_parameters(model)``; with ``fit=True`` for networks of plain 3D convolutions,
            whose layers then count as 3T layers.
        moving_first: of the channels, those that move by more than ``trajectories.LEAST`` before the others.

    Raises:
        ValueError: if a method cannot work on the clip (one frame, a class that is not there, ...), or a layer of
            channel_layers is no 3T layer.
        KeyError: if there is no such layer.
    """
    score_fn = as_score_function(model, 'probabilities')
    with warnings.catch_warnings(record=True) as of_layer:
        warnings.simplefilter('always', UserWarning)
        layer = layer or last_map_layer(model, score_fn, clip.inputs)  # of several pathways it says which one
    with frozen(model), torch.no_grad():
        scores = score_fn(clip.inputs)
    index = int(choose_target(scores, target)[0])
    pictures = downscaled(clip.frames)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        maps = grad_cam(model, clip.inputs, index, layer)
    notes = [str(warning.message) for warning in [*of_layer, *caught] if issubclass(warning.category, UserWarning)]
    shown = normalise_maps(upsample_maps(maps, pictures.shape[:3]))[0].cpu().numpy()
    found = find_temporal_mask(score_fn, clip.inputs, index, iterations=iterations, threshold=threshold)
    known = temporal_parameters(model, clip_shape=clip.inputs.shape[1:]) if parameters is None else parameters
    layers = default_channel_layers(model, known) if channel_layers is None else channel_layers
    active = [entry for name in layers if channels
              for entry in _channels(model, clip, pictures, name, channels, known, moving_first)]
    return ClipAnalysis(
        frames=[data_uri(image) for image in pictures], painted=[data_uri(image) for image in overlay(pictures, shown)],
        size=pictures.shape[1:3], scores=scores[0].cpu().numpy(), target=index, label=clip.label, layer=layer,
        attention=shown.mean((1, 2)), mask=found.mask[0].cpu().numpy(), runs=found.runs[0],
        original=float(found.original[0]), freeze=float(found.freeze[0]), reverse=float(found.reverse[0]),
        iterations=int(found.iterations[0]), channels=active, notes=notes, silent=bool(nothing_speaks(maps)[0]))
