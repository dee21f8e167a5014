"""README.md, CONTRIBUTING.md, docs/ and the READMEs of projects/ as data.

Fences, inline code, links, headings, and shell lines as commands.
"""
import re
import shlex
from pathlib import Path
from typing import Dict, List, NamedTuple, Tuple

from helpers.paths import ROOT

PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md')),
         *sorted((ROOT / 'projects').glob('*/README.md'))]

FENCE = re.compile(r'^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ ]*$', re.M | re.S)
SEPARATORS = re.compile(r'[;&|\n]+')
KEYWORDS = ('do', 'then', 'else', '!', 'time', 'exec')


class Block(NamedTuple):
    """A fenced block; ``name`` is 'docs/x.md: first line of code', which lists of exceptions use."""
    page: str
    language: str
    code: str

    @property
    def name(self) -> str:
        return f'{self.page}: {self.code.strip().splitlines()[0]}'


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(*languages: str) -> List[Block]:
    """The fenced blocks of all pages in those languages, in the order of the pages."""
    return [Block(page_name(page), fence['language'], fence['code']) for page in PAGES
            for fence in FENCE.finditer(page.read_text(encoding='utf-8')) if fence['language'] in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub('', page.read_text(encoding='utf-8'))


def code_spans(page: Path) -> List[str]:
    """What stands between single backticks, lines joined."""
    return [' '.join(span.split()) for span in re.findall(r'(?<!`)`([^`]+)`(?!`)', prose(page))]


def anchors(page: Path) -> Tuple[set, set]:
    """The headings' anchors as GitHub makes them and as mkdocs does."""
    github, mkdocs = set(), set()
    for title in re.findall(r'^#{1,6} +(.*?) *#*$', prose(page), re.M):
        title = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', title).replace('`', '').replace('*', '')
        github.add(re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-'))
        ascii_title = title.encode('ascii', 'ignore').decode()
        mkdocs.add(re.sub(r'[-\s]+', '-', re.sub(r'[^\w\s-]', '', ascii_title).strip().lower()))
    return github, mkdocs


def shell_commands(code: str) -> List[List[str]]:
    """The commands of a piece of bash as lists of words.

    Comments, assignments, redirections and shell keywords are gone; variables that the piece sets are put in, and what
    only a run could tell (``$(...)``, other variables) is the word VALUE.
    """
    code = re.sub(r'\\\n', ' ', code)
    code = re.sub(r'(^|\s)#[^\n]*', r'\1', code)
    code = re.sub(r'[<$]\((?:[^()]|\([^()]*\))*\)', 'VALUE', code)
    lexer = shlex.shlex(code, posix=True, punctuation_chars=';&|<>\n')
    lexer.commenters, lexer.whitespace, lexer.whitespace_split = '', ' \t\r', True
    commands: List[List[str]] = [[]]
    redirected = False
    for word in lexer:
        if SEPARATORS.fullmatch(word):
            commands.append([])
        elif set(word) <= set('<>'):
            redirected = True
        elif redirected:
            redirected = False
        else:
            commands[-1].append(word)
    known: Dict[str, str] = {}
    found = []
    for words in commands:
        while words and words[0] in KEYWORDS:
            words = words[1:]
        if words[:1] == ['for']:
            continue
        words = [re.sub(r'\$\{(\w+)[^}]*\}|\$(\w+)', lambda m: known.get(m[1] or m[2], 'VALUE'), word)
                 for word in words]
        while words and re.fullmatch(r'\w+=.*', words[0], re.S):
            name, _, value = words[0].partition('=')
            known[name] = value
            words = words[1:]
        if words and words != ['done']:
            found.append(words)
    return found
