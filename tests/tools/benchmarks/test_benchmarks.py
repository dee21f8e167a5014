"""tools/benchmarks: the page is assembled from the tables, every script runs. Times are never looked at."""
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers.paths import ROOT

from tconv_mmaction.cli import timing

TOOLS = ROOT / 'tools/benchmarks'
PAGE = """# Title

Text before.

<!-- table: one_cpu -->
old
<!-- end -->

Between.

<!-- table: two_cpu -->
<!-- end -->
"""


@pytest.fixture
def script(benchmark_script):
    return benchmark_script


def test_assembles_the_page(script, tmp_path):
    (tmp_path / 'one_cpu.md').write_text('header\n\n| a |\n| --- |\n| 1\\2 \\g<0> |\n')
    text, replaced, missing = script('all')['assemble'](PAGE, tmp_path)
    assert text == PAGE.replace('\nold\n', '\n\nheader\n\n| a |\n| --- |\n| 1\\2 \\g<0> |\n\n')
    assert (replaced, missing) == (['one_cpu'], ['two_cpu'])
    assert script('all')['assemble'](text, tmp_path)[0] == text  # a second time changes nothing


@pytest.mark.parametrize('page, said', [
    (PAGE.replace('<!-- end -->', '', 1), 'one_cpu'),
    (PAGE.replace('<!-- table: two_cpu -->', ''), '1 lines .* 2 lines'),
    (PAGE.replace('two_cpu', 'one_cpu'), 'more than once: one_cpu'),
    (PAGE + '<!-- end -->\n', '3 lines "<!-- end'),
])
def test_refuses_a_page_with_broken_marks(script, tmp_path, page, said):
    with pytest.raises(ValueError, match=said):
        script('all')['assemble'](page, tmp_path)


def test_fills_the_page_and_says_what_is_missing(script, tmp_path, capsys):
    page, out_dir = tmp_path / 'page.md', tmp_path / 'out'
    out_dir.mkdir()
    (out_dir / 'two_cpu.md').write_text('two\n')
    (out_dir / 'three_cpu.md').write_text('three\n')
    page.write_text(PAGE)
    main = script('all')['main']
    assert main(['--no-run', '--out-dir', str(out_dir), '--page', str(page)]) == 0
    assert page.read_text() == PAGE.replace('two_cpu -->\n', 'two_cpu -->\n\ntwo\n\n')
    printed = capsys.readouterr().out
    assert 'no one_cpu.md' in printed and 'no place for three_cpu' in printed
    with pytest.raises(SystemExit):
        main(['--no-run'])
    with pytest.raises(FileNotFoundError, match='nowhere.md'):
        main(['--no-run', '--page', str(tmp_path / 'nowhere.md')])


def test_a_failing_benchmark_is_named_and_the_others_run(script, tmp_path, capfd):
    for name, code in (('bad', 'import sys; sys.exit(3)'), ('killed', 'import os; os.kill(os.getpid(), 9)'),
                       ('good', 'print("ran")')):
        (tmp_path / f'{name}.py').write_text(code)
    failed = script('all')['run_all']([[str(tmp_path / f'{name}.py')] for name in ('bad', 'killed', 'good')])
    assert failed == ['bad: exit status 3', 'killed: signal 9']
    printed = capfd.readouterr().out
    assert 'ran\n' in printed and 'failed: bad: exit status 3; killed: signal 9' in printed


def test_all_runs_every_script_and_the_page_has_a_place_for_each(script, tmp_path):
    """Every script of the folder is in the list, takes the options it is given, and has its table on the page."""
    namespace = script('all')
    assert set(namespace['SCRIPTS']) == {path.stem for path in TOOLS.glob('*.py')} - {'all', 'on_gpu', 'summary'}
    lines = namespace['commands'](list(namespace['SCRIPTS']), 'cpu', tmp_path, quick=False)
    assert [Path(line[0]).exists() for line in lines] == [True] * len(lines)
    quick = namespace['commands'](['masks', 'recipes'], 'cpu', tmp_path, quick=True)
    assert [line[1:-4] for line in quick] == [['--quick'], ['--quick', *namespace['QUICK']['recipes']]]
    assert set(namespace['QUICK']) <= set(namespace['SCRIPTS'])
    recipes = script('recipes')
    assert 's3d-r18' in recipes['CASES'] and set(namespace['QUICK']['recipes'][3:]) <= set(recipes['SWITCHES'])
    docs = ROOT / 'docs'
    pages = [*docs.glob('speed/*.md'), *(docs / f'{name}.md' for name in ('benchmarks', 'recipes', 'data'))]
    page = ''.join(page.read_text() for page in pages)
    names = {match['name'] for match in namespace['TABLE'].finditer(page)}
    assert {f'{name}_cpu' for name in namespace['SCRIPTS']} <= names


def test_ratios_are_medians_of_rounds(script):
    import numpy as np
    row, = vars(timing)['rows_against'](
        'peer', {'peer': np.array([1., 2., 4.]), 'ours': np.array([1., 1., 8.])}, case='x')
    assert (row['ratio'], row['ms'], row['peer_ms'], row['case']) == (1.0, 1000.0, 2000.0, 'x')
    assert row['quartiles'] == '0.750 - 1.500'


def test_report_writes_csv_markdown_and_plot(script, tmp_path, capsys):
    namespace = vars(timing)
    args = namespace['parser']('').parse_args(['--out-dir', str(tmp_path), '--rounds', '2'])
    rows = [dict(case='a', candidate='ours', peer='theirs', ratio=0.5, quartiles='0.4 - 0.6', ms=1., peer_ms=2.)]
    namespace['report']('name', rows, args)
    assert pd.read_csv(tmp_path / 'name_cpu.csv').to_dict('records') == rows
    text = (tmp_path / 'name_cpu.md').read_text()
    assert text.startswith('name on ') and '| 0.5 | 0.4 - 0.6 | a | ours | theirs | 1.0 | 2.0 |\n' in text
    assert (tmp_path / 'name_cpu.png').stat().st_size > 1000


def test_the_summary_has_a_row_per_network_with_its_three_ratios(script, tmp_path):
    (tmp_path / 'models_cpu.md').write_text('models on a machine; 2026\n\n| ratio |\n')
    both = dict(clip='8x4x4', batch=2, peer='3D')
    pd.DataFrame([
        dict(both, case='a', candidate='3T', mode='training step', ratio=0.5),
        dict(both, case='a', candidate='3T', mode='eval', ratio=0.75),
        dict(both, case='a', candidate='3T, deployed', mode='eval', ratio=1.01),
        dict(both, case='b', candidate='C-LSTM', mode='eval', ratio=1.25),
    ]).to_csv(tmp_path / 'models_cpu.csv', index=False)
    pd.DataFrame([dict(both, case='a', candidate='3T', memory_ratio=0.7)]).to_csv(
        tmp_path / 'models_memory_cpu.csv', index=False)
    assert script('summary')['main'](['--out-dir', str(tmp_path)]) == 0
    assert (tmp_path / 'summary_cpu.md').read_text() == (
        'a machine; 2026\n\n| training step | eval | memory | network | against | input |\n'
        '| --- | --- | --- | --- | --- | --- |\n| 0.5 | 0.75 | 0.7 | 3T | 3D | 2 x 8x4x4 |\n'
        '| not measured | 1.25 | not measured | C-LSTM | 3D | 2 x 8x4x4 |\n')
    assert (tmp_path / 'summary_cpu.png').stat().st_size > 1000
    assert script('summary')['main'](['--out-dir', str(tmp_path), '--device', 'cuda']) == 2


def test_a_table_of_some_cases_keeps_the_other_rows(script, tmp_path, capsys):
    namespace = vars(timing)
    args = namespace['parser']('').parse_args(['--out-dir', str(tmp_path)])

    def row(case, ratio):
        return dict(case=case, candidate='ours', peer='theirs', ratio=ratio, rounds=3)

    cases = ['a', 'b', 'c']
    namespace['report']('name', [row('c', 3.), row('a', 1.)], args, cases)
    table = namespace['report']('name', [row('b', 2.), row('a', 1.5)], args, cases)
    assert list(zip(table['case'], table['ratio'])) == [('a', 1.5), ('b', 2.), ('c', 3.)]
    assert pd.read_csv(tmp_path / 'name_cpu.csv')['ratio'].tolist() == [1.5, 2., 3.]
    text = (tmp_path / 'name_cpu.md').read_text()
    (tmp_path / 'name_cpu.md').write_text(text.replace('torch ', 'torch 0.'))  # another version: not to be mixed
    table = namespace['report']('name', [row('b', 2.)], args, cases)
    assert table['case'].tolist() == ['b'] and 'of another machine, version or form' in capsys.readouterr().out


def test_plots_against_two_peers_do_not_cover_each_other(script, tmp_path, monkeypatch):
    from matplotlib.axes import Axes
    drawn = []
    monkeypatch.setattr(Axes, 'barh', lambda self, labels, widths, **options: drawn.append((labels, list(widths))))
    rows = [dict(case='a', candidate='ours', peer=peer, ratio=ratio, rounds=3) for peer, ratio in (('x', .5), ('y', 2))]
    for few in (rows, rows[:1]):
        vars(timing)['plot'](pd.DataFrame(few), 'title', tmp_path / 'plot.png')
    assert drawn == [(['a, ours : x', 'a, ours : y'], [.5, 2]), (['a, ours'], [.5])]


def test_conv_lstm_against_both_plain_implementations(script, tmp_path, monkeypatch):
    """The rounds of the three candidates are made up: ratios to both peers come from the same ones."""
    import numpy as np
    namespace = script('conv_lstm')
    times = {'ConvLSTM2d': [1., 3., 2.], namespace['TWO']: [2., 3., 1.], namespace['EIGHT']: [4., 4., 4.]}

    def interleave(candidates, rounds, device, warmup):
        for run in candidates.values():
            run()
        return {name: np.array(times[name]) for name in candidates}

    monkeypatch.setitem(namespace['main'].__globals__, 'interleave', interleave)
    for name in ('layer-64', 'layer-56'):
        monkeypatch.setitem(namespace['CASES'], name, namespace['Case'](None, 2, 1, (2, 12, 12)))
        namespace['main'](['--cases', name, '--no-memory', '--rounds', '3', '--out-dir', str(tmp_path)])
    table = pd.read_csv(tmp_path / 'conv_lstm_cpu.csv')
    assert table['case'].tolist() == ['layer-64'] * 3 + ['layer-56'] * 3  # the first stays when the second is timed
    rows = [(row.candidate, row.peer, row.ratio, row.quartiles, row.ms, row.peer_ms, row.rounds)
            for row in table[table['case'] == 'layer-56'].itertuples()]
    two, eight = namespace['TWO'], namespace['EIGHT']
    assert rows == [('ConvLSTM2d', two, 1., '0.750 - 1.500', 2000., 2000., 3),
                    (eight, two, 2., '1.667 - 3.000', 4000., 2000., 3),
                    ('ConvLSTM2d', eight, .5, '0.375 - 0.625', 2000., 4000., 3)]
    assert not (tmp_path / 'conv_lstm_memory_cpu.csv').exists()


def test_evaluation_paths_say_whether_auto_takes_the_faster(script, tmp_path, monkeypatch):
    """Made-up rounds, factored in half and in double the time of the kernel path; the rule itself is Conv3T's."""
    import numpy as np

    from tconv_mmaction.ops import explain
    namespace = script('evaluation_paths')
    variables, shape = namespace['main'].__globals__, namespace['Shape']
    ran, taken = [], []

    def step(layer, x, grad):
        def run():
            chosen, = (name for name, reason in explain(layer, x).items() if reason == 'chosen')
            taken.append((chosen, layer(x)))
        return run

    def interleave(candidates, rounds, device):
        assert list(candidates) == ['kernel', 'factored']
        taken.clear()
        for run in candidates.values():
            run()
        (kernel, one), (factored, other) = taken
        assert factored == 'factored' != kernel
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)  # the same layer twice
        ran.append(rounds)
        return {'kernel': np.array([1., 2., 3.]), 'factored': np.array([.5, 1., 1.5]) * (4 if len(ran) == 2 else 1)}

    monkeypatch.setitem(variables, 'interleave', interleave)
    monkeypatch.setitem(variables, 'step', step)
    monkeypatch.setitem(variables, 'QUICK', [shape(160, 8, 1, (2, 3, 3)), shape(160, 8, 1, (2, 3, 4)),
                                             shape(64, 8, 1, (2, 3, 3))])
    namespace['main'](['--quick', '--out-dir', str(tmp_path)])
    table = pd.read_csv(tmp_path / 'evaluation_paths_cpu.csv')
    assert table[['positions', 'candidate', 'peer', 'ratio', 'auto', 'auto_is']].values.tolist() == [
        [18, 'factored', 'kernel', .5, 'factored', 'faster'], [24, 'factored', 'kernel', 2., 'factored', 'slower'],
        [18, 'factored', 'kernel', .5, 'kernel', 'slower']]
    verdict = namespace['verdict']
    assert [verdict(np.array(ratios), False) for ratios in ([2., 2.], [.5, 2.])] == ['faster', 'even']
    assert [verdict(np.array([2., 2.]), True), verdict(np.array([.5, .5]), True)] == ['slower', 'faster']


def test_evaluation_paths_are_on_both_sides_of_the_rule(script):
    """The shapes say little if 'auto' takes the same one at all of them."""
    from tconv_mmaction.layers import Conv3T
    from tconv_mmaction.ops import explain
    chosen = {}
    for shape in script('evaluation_paths')['SHAPES']:
        layer = Conv3T(shape.in_channels, shape.out_channels, 3, padding=1)
        reasons = explain(layer, torch.empty(shape.batch, shape.in_channels, *shape.size))
        factored = reasons['factored'] == 'chosen'
        chosen.setdefault(shape.in_channels, set()).add(factored)
    assert set().union(*chosen.values()) == {True, False}
    assert any(len(both) == 2 for both in chosen.values())  # few positions and many, of the same channels


def test_cases_that_are_asked_for(script):
    namespace = vars(timing)
    options = namespace['parser']('')
    namespace['add_cases'](options, ['a', 'b', 'c'], ['b'])
    for words, expected in (([], ['a', 'b', 'c']), (['--quick'], ['b']),
                            (['--quick', '--cases', 'c', 'a'], ['c', 'a'])):
        assert namespace['asked_cases'](options.parse_args(words), ['a', 'b', 'c'], ['b']) == expected


def test_options(script, capsys):
    with pytest.raises(SystemExit):
        vars(timing)['parser']('').parse_args(['--rounds', '0'])
    assert "at least 1, got '0'" in capsys.readouterr().err
    for name, wrong in (('models', ['--cases', 'none']), ('conv_lstm', ['--cases', 'none']),
                        ('growth', ['--axes', 'time']), ('masks', ['--iterations', '0']), ('all', ['--only', 'none'])):
        with pytest.raises(SystemExit):
            script(name)['main'](wrong)


def test_growth(script, tmp_path):
    """One axis of tiny layers: rows of all layers and modes, growth relative to the first point, lines drawn."""
    script('growth')['main'](['--quick', '--axes', 'T', '--rounds', '1', '--out-dir', str(tmp_path)])
    table = pd.read_csv(tmp_path / 'growth_cpu.csv')
    assert len(table) == 2 * 2 * 3 and set(table['candidate']) == {'Conv3T', 'MultiBranchConv3d', 'ConvLSTM2d'}
    first = table[table['value'] == 8]
    assert (first['growth'] == 1).all() and (first['peer_growth'] == 1).all()
    assert (tmp_path / 'growth_cpu.png').stat().st_size > 10000


def test_growth_compares_layers_of_the_same_shape(script):
    namespace = script('growth')
    for axis, points in namespace['AXES'].items():
        assert len({point._replace(**{axis: 0}) for point in points}) == 1  # nothing else changes along an axis
    point = namespace['TINY']['depth'][1]
    x = torch.randn(point.batch, point.channels, point.T, point.side, point.side)
    for layer in namespace['layers'](point, True).values():
        assert layer(x).shape == x.shape


def test_models(script):
    """A case of small networks: every candidate against the peer, in training, in eval and deployed."""
    namespace = script('models')
    case = namespace['CASES']['3t-resnet18']
    small = {key: {**cfg, 'base_channels': 4} for key, cfg in case.networks.items()}
    rows = namespace['time_case']('3t-resnet18', case._replace(networks=small, size=(8, 32, 32)), 1, 'cpu')
    assert [(row['mode'], row['candidate'], row['peer']) for row in rows] == [
        ('training step', '3T-ResNet18', '3D-ResNet18'), ('eval', '3T-ResNet18', '3D-ResNet18'),
        ('eval', '3T-ResNet18, deployed', '3D-ResNet18')]
    assert all(row['ms'] > 0 and row['rounds'] == 1 for row in rows)


def test_every_network_of_the_models_has_its_parameters(script):
    """All cases are built (without memory for the weights); those that are to be one network have its parameters."""
    namespace = script('models')
    for name, case in namespace['CASES'].items():
        with torch.device('meta'):
            models = {key: namespace['Classifier'](cfg) for key, cfg in case.networks.items()}
        namespace['check_same'](name, models, case.same)
        if name == 'r2plus1d18':  # the published count, without its classifier of 27
            counts = {key: sum(p.numel() for p in model.backbone.parameters()) for key, model in models.items()}
            assert counts['R2Plus1d18'] == 31_313_976 - 512 * 27 - 27 == counts['plain PyTorch R(2+1)D-18']


def test_plain_networks_are_ours(script):
    """The network that is written down in the benchmark computes what TemporalResNet3d does with the same weights."""
    namespace = script('models')
    case = namespace['CASES']['3d-resnet18-plain']
    plain, ours = (namespace['build'](case.networks[key], 'cpu').backbone.eval()
                   for key in ('plain PyTorch R18', '3D-ResNet18'))
    state = ours.state_dict()
    assert [v.shape for v in plain.state_dict().values()] == [v.shape for v in state.values()]
    plain.load_state_dict(dict(zip(plain.state_dict(), state.values())))
    x = torch.randn(1, 3, 8, 32, 32)
    torch.testing.assert_close(plain(x), ours(x), rtol=1e-4, atol=1e-5)


def test_networks_that_should_be_the_same_and_are_not(script):
    from torch import nn
    namespace = script('models')
    models = {}
    for name, size in (('peer', 3), ('ours', 4)):
        models[name] = nn.Module()
        models[name].backbone = nn.Linear(size, 1)
    with pytest.raises(RuntimeError, match='case: ours has 5 parameters, peer 4'):
        namespace['check_same']('case', models, ['ours'])


@pytest.mark.slow
def test_masks(script, tmp_path):
    script('masks')['main'](['--quick', '--rounds', '1', '--iterations', '1', '--out-dir', str(tmp_path)])
    assert list(pd.read_csv(tmp_path / 'masks_cpu.csv')['candidate']) == [
        'search of one clip', '8 clips together', '8 clips together', 'freeze_frames']


def test_lenet_of_the_mask_benchmark(script):
    scores = script('masks')['LeNetScores']()(torch.rand(2, 1, 30, 28, 28))
    torch.testing.assert_close(scores.sum(1), torch.ones(2))


def test_allocator_rows_are_ratios_of_processes(script, monkeypatch):
    """Made-up processes: against the same network without the variables, and against the peer with them."""
    namespace = script('allocator')
    runs = {'3D-ResNet18': {False: [2., 4., 2.], True: [1., 1., 1.]}, '3T-ResNet18': {False: [1., 1., 2.],
                                                                                     True: [.5, 1., .5]}}
    seen = []

    def in_a_process(name, network, steps, variables):
        assert (name, steps) == ('3t-resnet18', 7) and variables in ({}, namespace['KEPT'])
        seen.append((network, bool(variables)))
        return dict(seconds=runs[network][bool(variables)][seen.count(seen[-1]) - 1], faults=0 if variables else 9)

    monkeypatch.setitem(namespace['rows_of'].__globals__, 'in_a_process', in_a_process)
    rows = namespace['rows_of']('3t-resnet18', 3, 7)
    assert [(row['candidate'], row['peer'], row['ratio'], row['peer_ms'], row['faults'], row['peer_faults'])
            for row in rows] == [
        ('3D-ResNet18, kept', '3D-ResNet18, default', .5, 2000., 0, 9),
        ('3T-ResNet18, kept', '3T-ResNet18, default', .5, 1000., 0, 9),
        ('3T-ResNet18, kept', '3D-ResNet18, kept', .5, 1000., 0, 0)]
    assert seen[:4] == seen[4:8][::-1]  # the order turns from round to round


def test_allocator_measures_a_process_with_its_variables(script, tmp_path, monkeypatch):
    namespace = script('allocator')
    child = tmp_path / 'child.py'
    child.write_text('import json, os, sys\nprint("said")\nprint(json.dumps(dict(seconds=len(sys.argv), faults='
                     'int(os.environ.get("MALLOC_TRIM_THRESHOLD_", 5)))))\n')
    monkeypatch.setitem(namespace['in_a_process'].__globals__, '__file__', str(child))
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '7')  # the user's own is not what is compared
    run = namespace['in_a_process']
    assert run('a', 'b', 3, {})['faults'] == 5
    assert run('a', 'b', 3, namespace['KEPT']) == dict(seconds=6, faults=1 << 32)
    child.write_text('raise SystemExit(3)')
    with pytest.raises(RuntimeError, match='a, b: .* exit status 3'):
        run('a', 'b', 3, {})
