"""A video data set whose videos were decoded once, by tools/data/pack_clips.py.

    --cfg-options train_dataloader.dataset.type=PackedVideoDataset train_dataloader.dataset.data_prefix.video=PACK

The list and the pipeline stay as they are.
"""
import logging
import os
from typing import Any, Callable, List, Optional, Union

from mmaction.datasets import VideoDataset
from mmaction.registry import DATASETS
from mmengine.logging import print_log

from ..utils.packed_frames import PackedVideo, PackReader, Row, read_index
from .bad_video_list import FILE_NAME, BadVideoList

OPENERS = ('DecordInit', 'PyAVInit', 'OpenCVInit', 'PIMSInit')
DECODERS = ('DecordDecode', 'PyAVDecode', 'OpenCVDecode', 'PIMSDecode', 'RawFrameDecode')
SHOWN = 5


def packed_pipeline(pipeline: List[Union[dict, Callable]]) -> List[Union[dict, Callable]]:
    """The pipeline without the step that opens the video, and with ``PackedDecode`` for the one that decodes it.

    A ``Resize`` right behind that becomes ``PackedResize``, which copies no frames that have the size already.

    Raises:
        ValueError: if it has no step that decodes, or one that needs the video itself.
    """
    made = []
    for step in pipeline:
        kind = step.get('type') if isinstance(step, dict) else None
        if kind == 'PyAVDecodeMotionVector':
            raise ValueError('PackedVideoDataset: PyAVDecodeMotionVector reads motion vectors from the video file, and '
                             'packed videos have none. Use VideoDataset.')
        if kind not in OPENERS:
            behind = bool(made) and isinstance(made[-1], dict) and made[-1].get('type') == 'PackedDecode'
            made.append(dict(type='PackedDecode') if kind in DECODERS else
                        dict(step, type='PackedResize') if kind == 'Resize' and behind else step)
    if not any((step.get('type') if isinstance(step, dict) else type(step).__name__) == 'PackedDecode'
               for step in made):
        raise ValueError(f'PackedVideoDataset: nothing in the pipeline gives frames. It needs one of {DECODERS}, which '
                         "is replaced, or dict(type='PackedDecode').")
    return made


@DATASETS.register_module()
class PackedVideoDataset(VideoDataset):
    """mmaction2's ``VideoDataset`` on a pack, a folder of decoded videos that are mapped into memory.

    Frames are at the size of the pack already; a ``Resize`` to that size, left in the pipeline, changes nothing. Every
    transform that samples frames works as on videos: ``total_frames`` is the number of frames that were decoded, and
    ``avg_fps`` the mean rate of the video. ``start_index`` is 0.

    Args:
        ann_file: list as for ``VideoDataset``; the names are those that were packed.
        pipeline: as for ``VideoDataset``. ``DecordInit`` (or PyAVInit, OpenCVInit, PIMSInit) is left out, and
            ``DecordDecode`` (or PyAVDecode, OpenCVDecode, PIMSDecode, RawFrameDecode) becomes ``PackedDecode``.
        data_prefix: ``dict(video=FOLDER)`` of the pack.
        missing: what a video of the list does that is not in the pack. 'error' ends the run before it starts.
            'leave_out' goes on without it and says how many and which; in test mode that is another score.
        **kwargs: the other arguments of ``VideoDataset``.

    Raises:
        FileNotFoundError: if the folder is no pack.
        ValueError: if videos of the list are not in it, the pack is damaged, the pipeline decodes nothing, or
            ``missing`` is another word.

    Several data sets, ranks and workers may read one pack at once; all of them share the pages that the system keeps
    of it in memory.
    """

    def __init__(self, ann_file: str, pipeline: List[Union[dict, Callable]], data_prefix: Optional[dict] = None, *,
                 missing: str = 'error', **kwargs: Any) -> None:
        if missing not in ('error', 'leave_out'):
            raise ValueError("PackedVideoDataset: missing must be 'error' or 'leave_out', got "
                             f'{missing!r}.')
        if not isinstance(data_prefix, dict) or not data_prefix.get('video'):
            raise ValueError("PackedVideoDataset: data_prefix must be dict(video=FOLDER) with the folder that "
                             f'tools/data/pack_clips.py wrote, got {data_prefix!r}.')
        if kwargs.get('start_index', 0) != 0:
            raise ValueError('PackedVideoDataset: frames of packed videos count from 0, got start_index='
                             f'{kwargs["start_index"]!r}.')
        self.missing = missing
        self.pack: Optional[PackReader] = None
        self._steps = packed_pipeline(pipeline)
        super().__init__(ann_file, self._steps, data_prefix, **kwargs)

    def load_data_list(self) -> List[dict]:
        """The list, each entry with the place of its frames."""
        prefix = self.data_prefix['video']
        self.data_prefix['video'] = None  # names as in the list, for a moment
        try:
            entries = super().load_data_list()
        finally:
            self.data_prefix['video'] = prefix
        self.pack = PackReader(prefix)
        self._tell_enlarged()
        index = read_index(prefix)
        found, absent = [], []
        for entry in entries:
            name = entry['filename']
            if name in index:
                shard, row = index[name]
                found.append(dict(entry, filename=os.path.join(prefix, name), shard=shard, row=tuple(row)))
            else:
                absent.append(name)
        if absent:
            self._tell_missing(absent, len(entries))
        return found

    def _tell_enlarged(self) -> None:
        """Say so where the first Resize of the pipeline asks for more pixels than were kept."""
        resize = next((step for step in self._steps
                       if isinstance(step, dict) and step.get('type') in ('Resize', 'PackedResize')), {})
        scale, settings = resize.get('scale'), self.pack.settings
        kept = min(settings.size) if settings.size else settings.short_side
        if kept is None or not isinstance(scale, (list, tuple)):
            return
        asked = min(side for side in scale if side > 0)
        if asked > kept:
            print_log(f'The videos of {self.pack.folder} are packed at {settings.describe()}, and Resize(scale='
                      f'{tuple(scale)}) of the pipeline enlarges them: pack them at {asked} pixels, or scale to '
                      f'{kept}.', 'current', logging.WARNING)

    def _tell_missing(self, absent: List[str], count: int) -> None:
        bad = BadVideoList(self.pack.folder / FILE_NAME, 'pack')
        bad.read()
        names = ', '.join(f'{name} ({bad.entries[name]["reason"]})' if name in bad.entries else name
                          for name in absent[:SHOWN])
        more = f', and {len(absent) - SHOWN} more' if len(absent) > SHOWN else ''
        what = f'{len(absent)} of the {count} videos of {self.ann_file} are not in {self.pack.folder}: {names}{more}.'
        if self.missing == 'error':
            raise ValueError(f"{what} Run tools/data/pack_clips.py on the list again, which adds what is missing; or "
                             "take them out of the list; or go on without them: missing='leave_out' of the data set.")
        print_log(f'{what} They are left out{"; the score is over the others" if self.test_mode else ""}.', 'current',
                  logging.WARNING)

    def get_data_info(self, idx: int) -> dict:
        """The entry of an index as a pipeline needs it: frames are counted already."""
        info = super().get_data_info(idx)
        row = Row(*info.pop('row'))
        info.update(packed=PackedVideo(self.pack, info.pop('shard'), row), total_frames=row.frames, avg_fps=row.fps)
        return info
