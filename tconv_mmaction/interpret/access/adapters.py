"""mmaction2's recognizers as plain functions of a clip: (N, C, T, H, W) in, (N, K) class scores out.

A 3D recognizer wants (N, crops, C, T, H, W), a 2D one (N, T, C, H, W), and both give their scores to data samples.
The methods of this package only know clips and scores; this module stands between.
"""
import copy

from mmaction.models.recognizers import Recognizer2D, Recognizer3D
from torch import Tensor, nn

from ...utils.wrappers import unwrap

OUTPUTS = ('probabilities', 'logits')


class RecognizerScores(nn.Module):
    """Class scores of a recognizer; differentiable, for any number of clips.

    The recognizer's own averaging over crops and clips is left out: every entry of the batch is one view with its own
    scores. ``max_testing_views`` is not used, the caller chooses the batch.

    Args:
        recognizer: a ``Recognizer3D`` or ``Recognizer2D``, also in DDP, averaged or compiled.
        output: 'probabilities' (softmax, what masks need) or 'logits' (what Grad-CAM and saliency need).

    Shape: clip (N, C, T, H, W), normalised as the data preprocessor does -> (N, num_classes).

    Raises:
        TypeError: for another kind of model.
        ValueError: for another output, or a recognizer without head.
    """

    def __init__(self, recognizer: nn.Module, output: str = 'probabilities') -> None:
        super().__init__()
        recognizer = unwrap(recognizer)
        if not isinstance(recognizer, (Recognizer2D, Recognizer3D)):
            raise TypeError(f'{type(recognizer).__name__} is neither a Recognizer3D nor a Recognizer2D. Write a '
                            'function from a clip (N, C, T, H, W) to scores (N, K) for it and give that instead.')
        if output not in OUTPUTS:
            raise ValueError(f'output must be one of {OUTPUTS}, got {output!r}.')
        if not recognizer.with_cls_head:
            raise ValueError(f'this {type(recognizer).__name__} has no cls_head, so there are no class scores.')
        self.recognizer = recognizer
        self.output = output

    @property
    def two_dimensional(self) -> bool:
        return isinstance(self.recognizer, Recognizer2D)

    def forward(self, clip: Tensor) -> Tensor:
        model = self.recognizer
        inputs = clip.transpose(1, 2).contiguous() if self.two_dimensional else clip.unsqueeze(1)
        test_cfg = model.test_cfg
        if test_cfg is not None and test_cfg.get('max_testing_views', False):
            # it is for one video at a time: with a batch of clips mmaction2 stops on an assertion
            model.test_cfg = copy.deepcopy(test_cfg)
            model.test_cfg['max_testing_views'] = False
        try:
            features, arguments = model.extract_feat(inputs, test_mode=True)
        finally:
            model.test_cfg = test_cfg
        logits = model.cls_head(features, **arguments)
        return logits.softmax(1) if self.output == 'probabilities' else logits


def as_score_function(model: nn.Module, output: str) -> nn.Module:
    """A recognizer becomes :class:`RecognizerScores`; any other module is taken to be (N, C, T, H, W) -> (N, K)."""
    inner = unwrap(model)
    return RecognizerScores(inner, output) if isinstance(inner, (Recognizer2D, Recognizer3D)) else model
