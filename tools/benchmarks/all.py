"""Every benchmark in turn, each in a process of its own, and the tables of the docs from what they wrote.

    python tools/benchmarks/all.py --quick
    python tools/benchmarks/all.py --out-dir docs/benchmarks --page docs/benchmarks.md docs/speed/*.md docs/data.md
    python tools/benchmarks/all.py --no-run --out-dir docs/benchmarks --page docs/benchmarks.md docs/speed/*.md

``--quick`` ends within five minutes on two CPU cores and shows the smallest cases with few rounds: it says whether the
package is fast on this machine, it is not for the page. In full it takes the better part of an hour there. A benchmark
that fails is named, the others run on, and the exit status is 1.

The pages keep their text. What stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` is replaced by NAME.md of
the out-dir; ``--no-run`` does only that.
"""
import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

FOLDER = Path(__file__).parent
# what each script is given when nothing else is said; masks' default of 300 iterations takes an hour on two cores
SCRIPTS: Dict[str, List[str]] = {
    'conv3t': [], 'evaluation_paths': [], 'inner_paths': [], 'multi_branch': ['--rounds', '5'],
    'conv_lstm': ['--rounds', '5'], 'models': ['--rounds', '5'], 'masks': ['--iterations', '60'], 'transforms': [],
    'fit': [], 'growth': [], 'recipes': ['--rounds', '5'], 'allocator': [], 'packed': ['--rounds', '5'],
    'decoders': ['--rounds', '5'], 'under_load': ['--rounds', '7'],
}
# and with --quick: bfloat16 takes long on a CPU that has no instructions for it, decoding is in 'transforms'
QUICK: Dict[str, List[str]] = {
    'recipes': ['--cases', 's3d-r18', '--switches', 'channels last', 'checkpointing', 'accumulation']}
TABLE = re.compile(r'<!-- table: (?P<name>\S+) -->\n(?P<old>.*?)<!-- end -->', re.DOTALL)


def commands(names: Sequence[str], device: str, out_dir: Path, quick: bool) -> List[List[str]]:
    """One command line per benchmark, without the interpreter."""
    return [[str(FOLDER / f'{name}.py'), *(['--quick', *QUICK.get(name, [])] if quick else SCRIPTS[name]),
             '--device', device, '--out-dir', str(out_dir)] for name in names]


def run_all(lines: Sequence[Sequence[str]]) -> List[str]:
    """Run each and print how long it took; returns what failed, as 'name: exit status 1'."""
    failed, start = [], time.perf_counter()
    for line in lines:
        name, before = Path(line[0]).stem, time.perf_counter()
        status = subprocess.run([sys.executable, *line]).returncode
        if status:
            how = f'signal {-status}' if status < 0 else f'exit status {status}'
            failed.append(f'{name}: {how}')
        print(f'{name}: {how if status else "done"} after {time.perf_counter() - before:.0f} s', flush=True)
    print(f'{len(lines)} benchmarks in {time.perf_counter() - start:.0f} s'
          + (f'; failed: {"; ".join(failed)}' if failed else ''), flush=True)
    return failed


def assemble(text: str, out_dir: Path) -> Tuple[str, List[str], List[str]]:
    """The page with its tables replaced; names that were replaced; names that the out-dir lacks (left as they were).

    Raises:
        ValueError: a marker without its end, an end without its marker, or a table that stands there twice.
    """
    names = [match['name'] for match in TABLE.finditer(text)]
    nested = [match['name'] for match in TABLE.finditer(text) if '<!-- table:' in match['old']]
    starts, ends = text.count('<!-- table:'), text.count('<!-- end -->')
    if nested or not starts == ends == len(names):
        raise ValueError(f'{starts} lines "<!-- table: NAME -->" and {ends} lines "<!-- end -->"'
                         + (f', none after that of {nested[0]}' if nested else '')
                         + ': each table needs both, the first followed by a line break.')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'The page has these tables more than once: {", ".join(twice)}.')
    replaced, missing = [], []

    def table(match: 're.Match') -> str:
        path = out_dir / f'{match["name"]}.md'
        if not path.exists():
            missing.append(match['name'])
            return match[0]
        replaced.append(match['name'])
        return f'<!-- table: {match["name"]} -->\n\n{path.read_text(encoding="utf-8").strip()}\n\n<!-- end -->'

    return TABLE.sub(table, text), replaced, missing


def fill_page(page: Path, out_dir: Path) -> Set[str]:
    """Replace the tables of the file ``page`` and say what was replaced and what was not; returns their names."""
    if not page.is_file():
        raise FileNotFoundError(f'--page {page}: no such file.')
    text, replaced, missing = assemble(page.read_text(encoding='utf-8'), out_dir)
    page.write_text(text, encoding='utf-8')
    print(f'{page}: {len(replaced)} tables from {out_dir}')
    if missing:
        print(f'{page}: left as they were, {out_dir} has no {", ".join(f"{name}.md" for name in missing)}')
    return set(replaced)


def fill_pages(pages: Sequence[Path], out_dir: Path) -> None:
    """Replace the tables of all ``pages`` and say which table none of them has a place for."""
    used = set().union(*(fill_page(page, out_dir) for page in pages))
    unused = sorted({path.stem for path in out_dir.glob('*.md')} - used)
    if unused:
        print(f'no place for {", ".join(unused)}')


def main(argv: Optional[Sequence[str]] = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    options.add_argument('--quick', action='store_true', help='few rounds and the small cases only')
    options.add_argument('--only', nargs='+', choices=list(SCRIPTS), default=list(SCRIPTS), metavar='NAME',
                         help=f'these benchmarks only, of {", ".join(SCRIPTS)}')
    options.add_argument('--out-dir', type=Path, default=Path('work_dirs/benchmarks'),
                         help='csv, markdown and plots are written there (default: %(default)s)')
    options.add_argument('--page', type=Path, nargs='+', help='replace the tables of these pages with those of the '
                         'out-dir')
    options.add_argument('--no-run', action='store_true', help='measure nothing, only fill the page')
    args = options.parse_args(argv)
    if args.no_run and args.page is None:
        options.error('--no-run measures nothing and there is no --page to fill: give one of the two up.')
    failed = [] if args.no_run else run_all(commands(args.only, args.device, args.out_dir, args.quick))
    if args.page is not None:
        from summary import write  # imports PyTorch, which nothing else here needs
        write(args.out_dir, args.device)
        fill_pages(args.page, args.out_dir)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
