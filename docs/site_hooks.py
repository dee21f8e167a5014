"""What the web site needs and neither mkdocs nor mkdocstrings does by itself.

mkdocs.yml names this file twice. As mkdocs' hook it adds the pages and results of projects/ and pages that the nav
forgets, lists the modules of a sub-package, and turns formulas ($...$ and $$...$$, which GitHub draws itself) into
MathML, which browsers draw without a script.
As an extension of griffe, which reads the docstrings, it turns what is meant for Sphinx into Markdown.
"""
import ast
import re
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent


def named(entries):
    """Every page that a nav, as mkdocs.yml has it, names."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else named(value)


def on_files(files, config):
    """Add projects/, and a section per folder, after the others, with the pages that no line of the nav names."""
    for path in sorted((ROOT / 'projects').rglob('*')):
        if path.suffix in ('.csv', '.json', '.jsonl', '.md', '.png'):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    known = set(named(config.nav))
    sections = {}
    for file in sorted(files.documentation_pages(), key=lambda file: file.src_uri):
        if file.src_uri not in known and file.inclusion.is_included():
            folder = file.src_uri.split('/')[0] if '/' in file.src_uri else 'more'
            sections.setdefault(folder.replace('_', ' ').capitalize(), []).append(file.src_uri)
    config.nav += [{title: pages} for title, pages in sections.items()]
    return files


def public_modules(package):
    """The modules from which the package's ``__init__`` imports, in that order."""
    tree = ast.parse((ROOT / package.replace('.', '/') / '__init__.py').read_text(encoding='utf-8'))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
    return [f'{package}.{name}' for node in imports
            for name in ([node.module] if node.module else [alias.name for alias in node.names])]


def on_page_markdown(markdown, *, page, **_):
    """``::: package.*`` stands for every public module of the package; functions and modules may share a name then.

    Links between docs/ and projects/ are written as the folders lie in the repository; on the site one holds the other.
    """
    if page.file.src_uri.startswith('projects/'):
        markdown = re.sub(r'\]\(((?:\.\./)+)docs/', r'](\1', markdown)
    else:
        markdown = re.sub(r'\]\(((?:\.\./)*)\.\./projects/', r'](\1projects/', markdown)

    def directives(match):
        return '\n\n'.join(f'::: {module}' for module in public_modules(match[1]) if f'::: {module}\n' not in markdown)
    return with_mathml(re.sub(r'^::: (\S+)\.\*$', directives, markdown, flags=re.M))


CODE = r'(^ *```.*?^ *```|`[^`\n]+`)'  # where a $ is a dollar


def inline(formula):
    """MathML within a line; Markdown takes a line that begins with <math> for a paragraph of its own."""
    return f'<span>{convert(formula)}</span>'


def with_mathml(markdown):
    """A page with its formulas as MathML; what stands in code is left alone."""
    parts = re.split(CODE, markdown, flags=re.S | re.M)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'^\$\$\s*(.+?)\s*\$\$$', lambda m: f'<div>{convert(m[1], display="block")}</div>', parts[i],
                          flags=re.S | re.M)
        parts[i] = re.sub(r'(?<![\w$\\])\$(?! )([^$]+?)(?<! )\$(?![\w$])', lambda m: inline(m[1]), parts[i])
    return ''.join(parts)


def to_markdown(text):
    """Sphinx' roles become code, formulas MathML; a ``*`` outside of code stays a times sign and no italics."""
    text = re.sub(r':(?:mod|class|func|meth|attr|data|ref):`[~.]*([^`]*)`', r'``\1``', text)
    text = re.sub(r':math:`([^`]*)`', lambda m: inline(m[1]), text)
    text = re.sub(r'^( *)\.\. math:: *(.*?)(?=\n\s*\n|\Z)',
                  lambda m: f'{m[1]}<div>{convert(m[2], display="block")}</div>', text, flags=re.M | re.S)
    parts = re.split(r'(`{2,3}.*?`{2,3})', text, flags=re.S)
    parts[::2] = [re.sub(r'(?<!^)(?<!\n)(?<!\n    )(?<!\n        )\*', r'\\*', part) for part in parts[::2]]
    return ''.join(parts)


class MarkdownDocstrings(griffe.Extension):
    """Applies :func:`to_markdown` to every docstring."""

    def on_object(self, *, obj, loader, **_):
        if obj.docstring:
            obj.docstring.value = to_markdown(obj.docstring.value)
