"""The steady motions of the classes, and what they are in the parameters of the head's filters."""
import numpy as np

from tconv_mmaction.datasets.digit_motions import SIDE

FRAMES, STRIDE, KERNEL = 12, 4, 7  # of a clip; of the 2D network; side of the head's filters
SPEED, TURN, GROWTH = 1.5, 12., 1.12  # pixels, degrees and factor per frame
# class -> (log zoom, clockwise radians, pixels right, pixels down) per frame
CLASSES = {
    'left': (0, 0, -SPEED, 0), 'right': (0, 0, SPEED, 0), 'up': (0, 0, 0, -SPEED), 'down': (0, 0, 0, SPEED),
    'clockwise': (0, np.deg2rad(TURN), 0, 0), 'counter-clockwise': (0, -np.deg2rad(TURN), 0, 0),
    'grow': (np.log(GROWTH), 0, 0, 0), 'shrink': (-np.log(GROWTH), 0, 0, 0), 'right and down': (0, 0, SPEED, SPEED),
    'still': (0, 0, 0, 0)}
NAMES = ('log scale', 'rotate', 'translate_x', 'translate_y')


def motion_of(label: int, rng: np.random.Generator) -> np.ndarray:
    """``(12, 4)`` side, clockwise degrees, pixels right and down, for :func:`digit_motions.draw`.

    In the middle of the clip the digit is placed, turned and sized at random, so that one frame says little of the
    class: -3 to 3 pixels from the centre, -20 to 20 degrees, 0.7 to 1 times its size.
    """
    log_zoom, turn, right, down = list(CLASSES.values())[label]
    t = np.arange(FRAMES) - (FRAMES - 1) / 2
    x, y = rng.uniform(-3, 3, 2)
    side = SIDE * rng.uniform(0.7, 1) * np.exp(log_zoom * t)
    return np.stack([side, np.rad2deg(turn) * t + rng.uniform(-20, 20), right * t + x, down * t + y], axis=1)


def true_parameters() -> np.ndarray:
    """``(classes, 4)`` as in ``NAMES``: what a filter that follows its class exactly has (docs/conv3t.md)."""
    log_zoom, turn, right, down = np.array(list(CLASSES.values()), float).T
    half = STRIDE * (KERNEL - 1) / 2  # a half kernel in pixels of the clip
    return 0. - np.stack([log_zoom, turn, right / half, down / half], axis=1)  # no minus zeros


def learned_parameters(motion: dict) -> np.ndarray:
    """The same of a trained head: the mean over its steps."""
    columns = [np.log(np.maximum(np.abs(motion['scale']), 1e-3)), *(np.array(motion[name]) for name in NAMES[1:])]
    return np.stack([np.asarray(column).mean(0) for column in columns], axis=1)


def agreement(learned: np.ndarray) -> np.ndarray:
    """(5,) correlation over the classes of ``learned (classes, 4)`` with the truth, for each of ``NAMES``, and of all
    four together, each parameter scaled by the truth's spread."""
    truth = true_parameters()
    scaled = [values / truth.std(0) for values in (learned, truth)]
    scaled = [values - values.mean(0) for values in scaled]
    single = [np.corrcoef(a, b)[0, 1] if a.std() > 0 else 0. for a, b in zip(scaled[0].T, scaled[1].T)]
    return np.array([*single, np.corrcoef(scaled[0].ravel(), scaled[1].ravel())[0, 1]])


def permutation_p(learned: np.ndarray, draws: int = 9999, seed: int = 0) -> np.ndarray:
    """(5,) p-values, one-sided, of the agreement's mean over seeds; ``learned (seeds, classes, 4)``.

    The null gives every seed's filters to the classes in an order of its own.
    """
    rng = np.random.default_rng(seed)
    seen = np.mean([agreement(values) for values in learned], axis=0)
    null = np.array([np.mean([agreement(values[rng.permutation(len(values))]) for values in learned], axis=0)
                     for _ in range(draws)])
    return (1 + (null >= seen).sum(0)) / (1 + draws)
