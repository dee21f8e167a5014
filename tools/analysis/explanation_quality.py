"""How good are the explanations of a recognizer? Deletion and insertion, the randomisation check, and the maps.

    python tools/analysis/explanation_quality.py CONFIG CKPT VIDEO... --out DIR
    python tools/analysis/explanation_quality.py CONFIG CKPT --dataset test --method grad_cam saliency --out DIR

Every method ranks the frames (or, with --unit cells, the places) of each clip. The highest-ranked are taken away, or
given back, and the class score is read: the area under the curve is low (deletion) or high (insertion) for a good map.
'random' and 'centre' know nothing of the network; what is no better than they are says nothing. With --stages the
layers are randomised from the top, and methods whose map does not change are named.

Writes scores.csv (a line per clip and method), scores.json (for --scores of report and compare), summary.csv (means,
intervals over clips, and the difference to random and centre), curves.png, per clip NAME.png (the frames and the map of
each method) and, with --stages, randomization.csv.
"""
import json
import sys
from typing import Dict

import numpy as np
import pandas as pd

from tconv_mmaction.cli import clip_tool
from tconv_mmaction.cli.figure_options import figure_files
from tconv_mmaction.interpret import (
    METHODS,
    RecognizerScores,
    against,
    areas,
    joined,
    method_curves,
    method_maps,
    randomization_check,
    summarize_scores,
)
from tconv_mmaction.interpret.access.modules import choose_target, frozen
from tconv_mmaction.interpret.deletion_insertion import UNITS
from tconv_mmaction.interpret.perturbations import PERTURBATIONS
from tconv_mmaction.interpret.pictures.explanations import draw_curves, draw_maps
from tconv_mmaction.utils import atomic_write_text

GRID = np.linspace(0, 1, 41)  # shares at which the mean curves of clips of any length are drawn


def shown(maps) -> Dict[str, np.ndarray]:
    """What is drawn of each method: (T,) or (T, H, W); of several draws the first."""
    first = {name: draws[0] if isinstance(draws, list) else draws for name, draws in maps.items()}
    return {name: of[0].detach().cpu().numpy() for name, of in first.items()}


def check_rows(check, clip: str):
    """A line per method and stage of a randomisation check of one clip."""
    layers = [[], *check.stages]
    return [dict(clip=clip, method=name, stage=stage, layers=' '.join(layers[stage]), rank=check.rank[name][stage, 0],
                 rank_abs=check.rank_abs[name][stage, 0], ssim=check.ssim[name][stage, 0])
            for name in check.rank for stage in range(len(layers))]


def analyse(args) -> int:
    model, loop, names = clip_tool.open_loop(args)
    score_fn = RecognizerScores(model)
    figures = figure_files(args)
    settings = dict(temporal_mask=dict(iterations=args.iterations, chunk_size=1))
    chosen = args.method or list(METHODS)
    rows, parts, mean_curves, checks = [], [], {'deletion': {}, 'insertion': {}}, []

    def work(name, clip):
        with frozen(model):
            target = int(choose_target(score_fn(clip.inputs).detach(), loop.target_of(clip))[0])
        maps = method_maps(model, clip.inputs, chosen, target, args.layer, settings)
        curves = method_curves(model, clip.inputs, maps, target, perturbation=args.perturbation, unit=args.unit,
                               chunk_size=args.chunk_size)
        found = areas(curves)
        if args.stages:
            methods = [method for method in chosen if not METHODS[method].baseline]
            checks.extend(check_rows(randomization_check(model, clip.inputs, methods, target, args.layer, args.stages,
                                                         settings=settings), name))
        for method, curve in curves.items():
            for kind, of in mean_curves.items():
                of.setdefault(method, []).append(np.interp(GRID, curve.shares.cpu(), getattr(curve, kind)[0].cpu()))
        figure = draw_maps(clip.frames, shown(maps), f'{clip.name}, {names[target]}',
                           {method: f'{deletion[0]:.2f}, {insertion[0]:.2f}'
                            for method, (deletion, insertion) in found.items()})
        figures.save(figure, args.out / name)
        parts.append(found)
        rows.extend(dict(clip=name, target=target, class_name=names[target], label=clip.label, method=method,
                         deletion=deletion[0], insertion=insertion[0])
                    for method, (deletion, insertion) in found.items())

    loop(work)
    if parts:
        write(args, figures, rows, joined(parts), {kind: {method: np.mean(of, 0) for method, of in methods.items()}
                                                   for kind, methods in mean_curves.items()})
    if checks:
        report_checks(args, pd.DataFrame(checks))
    if parts:
        print(f'written to {args.out}')
    return loop.exit_code()


def write(args, figures, rows, aucs, mean_curves) -> None:
    """The files over all clips, and the table that is printed."""
    atomic_write_text(args.out / 'scores.csv', pd.DataFrame(rows).to_csv(index=False))
    summary = summarize_scores(aucs)
    scores = {name: dict(auc_deletion=score.auc_deletion, auc_insertion=score.auc_insertion,
                         interval=None if np.isnan(score.interval).any() else list(score.interval))
              for name, score in summary.items()}
    about = dict(perturbation=args.perturbation, unit=args.unit, clips=len(next(iter(aucs.values()))[0]))
    atomic_write_text(args.out / 'scores.json', json.dumps(dict(scores=scores, **about), indent=1) + '\n')
    table = pd.DataFrame([dict(method=name, deletion=score.auc_deletion, insertion=score.auc_insertion,
                               gain=score.auc_insertion - score.auc_deletion, low=score.interval.low,
                               high=score.interval.high) for name, score in summary.items()]).set_index('method')
    for order in ('random', 'centre'):
        if order in aucs:
            for name, compared in against(aucs, order).items():
                table.loc[name, f'against_{order}'] = compared.difference
                table.loc[name, f'against_{order}_low'] = compared.interval.low
                table.loc[name, f'against_{order}_high'] = compared.interval.high
    table = table.sort_values('gain', ascending=False)
    atomic_write_text(args.out / 'summary.csv', table.to_csv())
    print(table.round(3).to_string())
    figures.save(draw_curves(GRID, mean_curves, args.perturbation, args.unit), args.out / 'curves')


def report_checks(args, table: pd.DataFrame) -> None:
    atomic_write_text(args.out / 'randomization.csv', table.to_csv(index=False))
    last = table[table.stage == table.stage.max()].groupby('method')[['rank', 'rank_abs', 'ssim']].mean()
    print(f'with all layers randomised, similarity of the maps:\n{last.round(3).to_string()}')
    same = last.index[last['rank'] >= args.unchanged].tolist()
    if same:
        print(f'these hardly change with the network: {", ".join(same)}')


def main(argv=None) -> int:
    parser = clip_tool.clip_parser(__doc__)
    parser.add_argument('--method', nargs='+', choices=list(METHODS), metavar='METHOD',
                        help=f'of {", ".join(METHODS)} (default: all)')
    parser.add_argument('--layer', help='of the methods that look at one, dotted name (default: as for grad_cam)')
    parser.add_argument('--perturbation', choices=list(PERTURBATIONS), default='freeze',
                        help='what is done to what is taken away (default freeze)')
    parser.add_argument('--unit', choices=UNITS, default='frames', help="what is taken away: 'frames' (default), or "
                        "'cells' of space and time (with freeze, blur or grey)")
    parser.add_argument('--stages', type=int, default=0, help='randomise the layers in so many groups from the top '
                        '(default 0: not at all)')
    parser.add_argument('--unchanged', type=float, default=0.5, help='from which rank correlation on a method counts '
                        'as one that does not change (default 0.5)')
    parser.add_argument('--iterations', type=int, default=150, help='of the temporal mask, at most (default 150)')
    parser.add_argument('--chunk-size', type=int, default=16, help='clips per forward pass; bounds memory (default 16)')
    return clip_tool.run(analyse, parser, argv)


if __name__ == '__main__':
    sys.exit(main())
