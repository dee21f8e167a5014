"""The options of every tool that draws: the format of its figures, their resolution and their width on paper."""
import argparse

from ..interpret.pictures.figure_files import DPI, FORMATS, FigureFiles, check_figure
from ..interpret.pictures.rendering import VIDEO_ENDINGS

FILMS = tuple(ending[1:] for ending in VIDEO_ENDINGS)


class _Format(argparse.Action):
    """``--format``; a film's format, which went by this name too, goes to ``--film``."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, 'film' if values in FILMS else 'format', values)


def add_figure_arguments(parser: argparse.ArgumentParser, films: bool = False, format: bool = True) -> None:
    """--format, --dpi and --width, for :func:`figure_files`.

    Args:
        parser: of a tool.
        films: the tool writes films too: ``--film`` is their format.
        format: False for tools whose ``--out`` is a file, the ending of which tells it.
    """
    if format:
        group = f'of the figures: {", ".join(FORMATS)} (default png)'
        parser.add_argument('--format', action=_Format, default='png', metavar='{png,pdf,svg}', help=group,
                            choices=FORMATS + (FILMS if films else ()))
    parser.add_argument('--dpi', type=float, default=DPI, help=f'of PNG figures (default {DPI})')
    parser.add_argument('--width', type=float, metavar='MM', help='of the figures on paper, in mm: about 85 for a '
                        'column, 180 for a page (default: as each is laid out)')
    if films:
        parser.add_argument('--film', choices=FILMS, default='mp4', help='format of the films (default mp4)')


def figure_files(args: argparse.Namespace) -> FigureFiles:
    """What the options say.

    Raises:
        ValueError: for a resolution or a width that makes no figure.
    """
    files = FigureFiles(getattr(args, 'format', 'png'), args.dpi, args.width)
    check_figure(*files)
    return files
