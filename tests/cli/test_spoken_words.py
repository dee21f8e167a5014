"""MIRACL-VC1's lists: speakers are kept apart; its clips: decoded from the videos."""
from collections import Counter

import numpy as np
import pytest
from helpers.paths import SHARED
from helpers.spoken_words import short_lists

from tconv_mmaction.cli import spoken_words
from tconv_mmaction.cli.spoken_words import lists, speaker


def test_every_speaker_says_as_much(tmp_path):
    data = short_lists(tmp_path)
    (names, labels), (tested, _) = lists(data, 1, 20, 0, tuning=False)
    assert Counter(labels) == {0: 20, 1: 20} and len(set(names)) == 40
    said = Counter((speaker(name), label) for name, label in zip(names, labels))
    assert set(said.values()) == {2} and len(said) == 20  # two clips of each word from each of ten speakers
    assert tested == ['words/begin/X01_01.avi', 'words/stop/X01_01.avi']
    assert lists(data, 1, 20, 0, False)[0][0] == names
    assert lists(data, 1, 20, 1, False)[0][0] != names
    with pytest.raises(ValueError, match='class 0 has 30 clips, fewer than 31'):
        lists(data, 1, 31, 0, False)


def test_rates_are_chosen_on_speakers_of_the_training_list(tmp_path):
    (names, _), (tested, _) = lists(short_lists(tmp_path), 1, 20, 0, tuning=True)
    held, trained = {speaker(name) for name in tested}, {speaker(name) for name in names}
    assert len(held) == 2 and len(trained) == 8 and not held & trained and 'X01' not in held
    assert len(tested) == 12  # everything they say


@pytest.mark.skipif(not (SHARED / 'data/miracl').is_dir(),
                    reason='the clips of MIRACL-VC1 are not beside this checkout')
def test_real_clips(tmp_path, monkeypatch):
    """Eight frames over the video, and the same ones again at every fourth of 29."""
    root, found = str(SHARED / 'data/miracl'), {}
    own = spoken_words.read_list(root, 'train', 1)[0][:3]
    monkeypatch.setattr(spoken_words, 'read_list', lambda root, part, fold: (own, [0] * 3))
    for frames in (8, 29):
        spoken_words.decoded.cache_clear()
        found[frames] = spoken_words.decoded(root, str(tmp_path), frames)
    spoken_words.decoded.cache_clear()
    assert sorted(found[8]) == sorted(found[29]) == sorted(own)
    for name, clip in found[8].items():
        assert clip.shape == (3, 8, 36, 72) and clip.std() > 5 and not (clip[:, 0] == clip[:, -1]).all()
        np.testing.assert_array_equal(found[29][name][:, ::4], clip)
