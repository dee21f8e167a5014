"""Class weights of a training list, n / (K n_k), for ``loss_cls=dict(type='CrossEntropyLoss', class_weight=[...])``.

The Jester configs count them themselves (ClassWeightedCrossEntropyLoss); this prints what they use.
"""
import argparse
import sys

from tconv_mmaction.heads.class_weighted_loss import balanced_class_weights


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('ann_file', help='training list; the last entry of a line is the label')
    parser.add_argument('num_classes', type=int)
    parser.add_argument('--delimiter', default=' ')
    args = parser.parse_args()
    try:
        weights = balanced_class_weights(args.ann_file, args.num_classes, args.delimiter)
    except (FileNotFoundError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print('[' + ', '.join(f'{w:.6g}' for w in weights) + ']')
    return 0


if __name__ == '__main__':
    sys.exit(main())
