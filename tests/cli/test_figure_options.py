"""--format, --dpi, --width, and --film beside them."""
import argparse

import pytest

from tconv_mmaction.cli.figure_options import add_figure_arguments, figure_files


def parse(*words, **options):
    parser = argparse.ArgumentParser()
    add_figure_arguments(parser, **options)
    return parser.parse_args(words)


def test_defaults_and_values():
    assert figure_files(parse()) == ('png', 150, None)
    assert figure_files(parse('--format', 'svg', '--dpi', '300', '--width', '84')) == ('svg', 300, 84)
    assert figure_files(parse('--width', '84', format=False)) == ('png', 150, 84)
    with pytest.raises(ValueError, match='30 to 1000 mm, got 3'):
        figure_files(parse('--width', '3'))


def test_a_films_format_went_by_the_same_name(capsys):
    args = parse('--format', 'gif', films=True)
    assert (args.film, args.format) == ('gif', 'png')
    args = parse('--format', 'pdf', '--film', 'gif', films=True)
    assert (args.film, args.format) == ('gif', 'pdf')
    for words, films in ((['--format', 'gif'], False), (['--format', 'jpg'], True)):
        with pytest.raises(SystemExit):
            parse(*words, films=films)
        assert 'invalid choice' in capsys.readouterr().err
