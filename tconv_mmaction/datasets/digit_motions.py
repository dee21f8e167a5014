r"""The ten motions of Video-MNIST, and the drawing of a moving digit.

Ras et al., "Temporal Factorization of 3D Convolutional Kernels", arXiv:1912.04075, appendix B. A motion is a table with
one row per frame: side in pixels, clockwise degrees, pixels to the right, pixels down, all for a frame of 28x28 pixels
and all relative to the original digit, so that

.. math::  \begin{bmatrix} x' \\ y' \end{bmatrix} = \frac{side}{28}
           \begin{bmatrix} \cos a & -\sin a \\ \sin a & \cos a \end{bmatrix}
           \begin{bmatrix} x \\ y \end{bmatrix} + \begin{bmatrix} right \\ down \end{bmatrix}

with x to the right and y down from the centre of the frame. Two mistakes of the authors' code are not repeated: the
last frame of digit 2 was black, and digit 5 took its degrees for radians.
"""
import cv2
import numpy as np

SIDE = 28  # of the frame that the motions are defined for, pixels
TURN = SIDE // 2 - 1  # 0, 1 and 7 turn this far off centre, pixels
STEP = 12.  # degrees per frame; 30 frames are one turn
MOTIONS = ('horizontal bounce', 'vertical bounce', 'shrink and grow', 'clockwise turn', 'counter-clockwise turn',
           'circle', 'grow with clockwise turn', 'horizontal bounce with counter-clockwise turn', 'turn and turn back',
           'random walk')


def bounce(num_frames: int, speed: int, direction: int) -> np.ndarray:
    """Positions ``(num_frames,)`` in pixels, from 0: at 13 it turns and gains 1 pixel per frame.

    A step that would go past 13 ends there: with speed 2, it is 0, 2, ..., 12, 13, 10, 7, ...
    """
    positions, here = np.zeros(num_frames), 0
    for t in range(1, num_frames):
        here = int(np.clip(here + direction * speed, -TURN, TURN))
        positions[t] = here
        if abs(here) == TURN:
            speed, direction = speed + 1, -direction
    return positions


def digit_motion(digit: int, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """One draw of a digit's motion.

    Args:
        digit: 0 to 9, which is the kind of motion too (``MOTIONS``).
        num_frames: frames, T. The paper's motions are for 30; shorter ones stop early, in longer ones 2 stays at its
            full size and the others go on. 8 turns back at half time.
        rng: where the speed, direction, radius and walk come from.

    Returns:
        ``(T, 4)`` side in pixels, clockwise degrees, pixels right, pixels down.
    """
    if digit not in range(10):
        raise ValueError(f'Video-MNIST has a motion for each digit from 0 to 9, got {digit!r}.')
    t = np.arange(num_frames, dtype=np.float64)
    side = np.full(num_frames, float(SIDE))
    rotation, right, down = np.zeros_like(t), np.zeros_like(t), np.zeros_like(t)
    if digit in (0, 1, 7):
        path = bounce(num_frames, speed=int(rng.integers(1, 3)), direction=int(rng.choice((-1, 1))))
        right, down = (right, path) if digit == 1 else (path, down)
    if digit == 2:
        sides = [*range(SIDE, 0, -2), *range(2, SIDE + 1, 2)][:num_frames]  # 28, 26, ..., 2, 2, ..., 28
        side[:len(sides)] = sides
    elif digit == 3:
        rotation = STEP * t
    elif digit in (4, 7):
        rotation = -STEP * t
    elif digit == 5:
        radius, angle = rng.integers(4, 13), np.deg2rad(STEP * t) * rng.choice((-1, 1))
        right, down = radius * np.cos(angle), radius * np.sin(angle)
    elif digit == 6:
        side, rotation = np.maximum(2 * t, 1), STEP * t  # 1, 2, 4, ..., 58
    elif digit == 8:
        half = num_frames // 2
        rotation = 2 * STEP * np.where(t <= half, t, 2 * half - t)
    elif digit == 9:
        steps = rng.integers(-1, 2, size=(num_frames, 3))
        steps[0] = 0  # the first frame is the digit itself
        rotation, right, down = (np.cumsum(steps, axis=0) * (STEP, 1, 1)).T
    return np.stack((side, rotation, right, down), axis=1)


def draw(image: np.ndarray, motion: np.ndarray, size: int = SIDE) -> np.ndarray:
    """The frames of a digit image under a motion.

    Every frame is made from the original, by one bilinear ``cv2.warpAffine`` with zeros outside, so that no blur adds
    up over time. A frame that shows the digit smaller than the original starts from its average over areas of that
    size: sampling it at single points would show arbitrary pixels.

    Args:
        image: ``(S, S)`` uint8, any side S.
        motion: ``(T, 4)`` as made by :func:`digit_motion`.
        size: side of the frames in pixels; for other sizes than 28 the whole scene is scaled.

    Returns:
        ``(T, size, size)`` uint8.
    """
    frames = np.empty((len(motion), size, size), dtype=np.uint8)
    unit = size / SIDE
    for frame, (side, rotation, right, down) in zip(frames, motion):
        pixels, source = side * unit, image
        if pixels < len(image):
            source = cv2.resize(image, (max(round(pixels), 1), ) * 2, interpolation=cv2.INTER_AREA)
        zoom, angle = pixels / len(source), np.deg2rad(rotation)
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        to, origin = (size - 1) / 2, (len(source) - 1) / 2  # centres, between the pixels when the side is even
        cv2.warpAffine(source, np.array([[cos, -sin, to + unit * right - (cos - sin) * origin],
                                         [sin, cos, to + unit * down - (sin + cos) * origin]]),
                       (size, size), dst=frame, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return frames
