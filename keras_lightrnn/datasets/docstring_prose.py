"""Extract sentences of prose from the docstrings of Python source."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

CODE = "<code>"
FORMULA = "<formula>"
NUMBER = "N"

_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Functions with which NumPy and SciPy attach docstrings to objects written in C.
_ATTACHING = {"add_newdoc", "add_docstring"}

_DIRECTIVE = re.compile(r"\.\. *(?:\[|_|[\w-]+::)")
_TEXT_DIRECTIVE = re.compile(
    r"\.\. *(?:note|warning|tip|hint|important|caution|attention|seealso):: *"
)
_ITEM = re.compile(r"(?:[-*+•]|\d+[.)]|\(\w{1,2}\)|#\.)\s+")
_FIELD = re.compile(r":(?:param|type|returns?|rtype|raises|ivar|cvar|var|keyword)\b[^:]*:\s*")
# `name: what it is` and `name (type): what it is`, as in "Args:" sections.
_ARGUMENT = re.compile(r"[`*]*[A-Za-z_][\w.]*[`*]*(?:\s*\([^)]*\))?:\s+(?=\S)")
# `name : type`, as in NumPy's "Parameters" sections, or a list of names.
_PARAMETER = re.compile(r"[`*]*[A-Za-z_][\w.*, `]*[`*]*\s+:(?:\s.*)?$|[\w.]+(?:,\s*[\w.]+)*$")
_HEADING = re.compile(r"#+ |[A-Z][\w/ ]{0,30}:$")
_RULE = re.compile(r"[-=~^*#_+.\"'`|: ]{3,}$")
_TABLE = re.compile(r"[|+].*[|+]$|.*\S {3,}\S.* {3,}\S|.*(?:={3,}|-{3,}) +(?:={3,}|-{3,})")
_CODE_LINE = re.compile(r">>>|\.\.\. |In \[|Out\[|\$ |%\w|@\w|import |from \w+ import |#")

_FORMULA = re.compile(r":math:`+[^`]*`+|\$\$.+?\$\$|\$[^$\n]+\$|\\\\?\([^)]*\\\\?\)")
_ROLE = re.compile(r":[\w:+-]+:`~?([^`<]*)(?:<[^`]*>)?`")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_CITATION = re.compile(r"\[[\w.+ -]{1,12}\]_+")
_INLINE = re.compile(r"(`+)([^`]+)\1_{0,2}")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*(?:\(\))?$")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z' -]*$")
_NUMERAL = re.compile(r"[-+]?\d[\d.,_]*(?:[eE][-+]?\d+)?$")
_URL = re.compile(r"<?(?:https?|ftp)://\S+|\S+@\S+\.\w+")
_EMPHASIS = re.compile(r"(?<!\w)(\*{1,2}|_{1,2})(\S(?:.*?\S)?)\1(?!\w)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]?\s+(?=[\"'(]?[A-Z`<])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|etc|al|Fig|Eq|Sec|No|pp?|vol|resp)|\b[A-Z])\.$"
)
_TOKEN = re.compile(
    r"<code>|<formula>"
    r"|e\.g\.|i\.e\.|etc\."
    r"|[A-Za-z_]\w*(?:[.'-]\w+)*"  # words, with hyphens and apostrophes, and dotted names
    r"|\d+(?:[.,]\d+)*(?:[eE][-+]?\d+|-?[A-Za-z]\w*)?"  # 12, 1e-3, 2-D
    r"|\.\.\.|[^\w\s]"
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*$")
_MARKS = frozenset(".,;:?!()'\"-") | {"...", "e.g.", "i.e.", "etc."}
_OPERATORS = frozenset("=<>{}[]|\\@#$%^&*+~/_`")
_SIGNS = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\u00a0": " "}
)


def iter_docstrings(source: str) -> Iterator[str]:
    """Iterate over the docstrings of a module's source, in order, indentation removed.

    Raises:
        SyntaxError: if the source is not Python.

    Example:

    >>> list(iter_docstrings("def f(x):\\n    '''Do it.\\n\\n    Twice.'''"))
    ['Do it.\\n\\nTwice.']
    """
    tree = ast.parse(source)
    yield from _iter_docstrings(tree.body)


def _iter_docstrings(body: list[ast.stmt]) -> Iterator[str]:
    # Only statements are visited: docstrings are never inside expressions.
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        text = body[0].value.value
        if isinstance(text, str):
            yield inspect.cleandoc(text)
    for node in body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield from _iter_attached(node.value)
        elif isinstance(node, _DOCUMENTED):
            yield from _iter_docstrings(node.body)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            for child in (node.body, getattr(node, "orelse", [])):
                yield from _iter_docstrings([ast.Pass(), *child])  # blocks have no docstring


def _iter_attached(call: ast.Call) -> Iterator[str]:
    name = getattr(call.func, "id", getattr(call.func, "attr", None))
    if name not in _ATTACHING:
        return
    for node in ast.walk(call):  # a text, a tuple `(name, text)`, or a list of these
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield inspect.cleandoc(node.value)


def iter_sentences(docstring: str) -> Iterator[str]:
    """Iterate over the prose sentences of a docstring, as tokens separated by spaces.

    Code, doctests, tables, displayed formulas, headings, signatures and parameter lines are
    skipped. Words are in lower case, punctuation marks are tokens, numbers are `N`, inline code
    other than names is `<code>`, and inline mathematics is `<formula>`.

    Example:

    >>> docstring = '''Return the mean, e.g. of 12 numbers. It is that of `numpy.mean`.
    ...
    ... Args:
    ...   x: The array, of shape `(3, 4)`.
    ...
    ... >>> mean([1, 2])
    ... 1.5
    ... '''
    >>> for sentence in iter_sentences(docstring):
    ...     print(sentence)
    return the mean , e.g. of N numbers .
    it is that of numpy.mean .
    the array , of shape <code> .
    """
    for paragraph in _iter_paragraphs(docstring):
        for sentence in _split_sentences(_plain_text(paragraph)):
            tokens = _TOKEN.findall(sentence)
            if _is_prose(tokens):
                yield " ".join(map(_normalise, tokens))


def _normalise(token: str) -> str:
    if token[0].isdigit():
        return NUMBER + _NUMBER.sub("", token).lower()
    return token.strip("_").lower() or token


def _iter_paragraphs(docstring: str) -> Iterator[str]:
    """Iterate over the paragraphs of running text, each joined to one line."""
    lines = docstring.expandtabs().split("\n")
    block: list[str] = []
    block_indent = 0
    hanging = False  # whether the next line of an item may have any indentation
    code_indent = -1  # lines indented more than this are code; -1 outside of code
    fence = ""  # the characters that close fenced code
    in_doctest = False

    for number, line in enumerate([*lines, ""]):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if fence:
            fence = "" if text.startswith(fence) else fence
            continue
        if in_doctest and text:
            continue
        in_doctest = text.startswith(">>>")
        if text and indent > code_indent >= 0:
            continue
        if text:
            code_indent = -1

        is_text = True
        is_new_block = indent < block_indent or (indent > block_indent and not hanging)
        item = _ITEM.match(text) or _FIELD.match(text) or _TEXT_DIRECTIVE.match(text)
        if not text or in_doctest or _HEADING.match(text) or _CODE_LINE.match(text):
            is_text = False
        elif text.startswith(("```", "~~~")):
            is_text, fence = False, text[:3]
        elif _DIRECTIVE.match(text) and not item:
            is_text, code_indent = False, indent
        elif _RULE.match(text):
            is_text = False
            block = []  # the previous line is a heading, or the head of a table
        elif _TABLE.match(text):
            is_text = False
        elif not block or is_new_block:
            # Inside a paragraph, a line of this form is text.
            is_text = not _is_parameter(text, lines, number, indent)
            item = item or _ARGUMENT.match(text)

        if block and (not is_text or is_new_block or item):
            yield " ".join(block)
            block = []
        if not is_text:
            continue
        if item:
            text = text[item.end() :]
        if not block or hanging:
            block_indent = indent + 1 if item else indent
        hanging = item is not None
        if text.endswith("::"):
            text, code_indent = text[:-1], indent
        block.append(text)


def _is_parameter(text: str, lines: list[str], number: int, indent: int) -> bool:
    """Return whether a line is `name : type`, or a name with an indented block below."""
    if not _PARAMETER.match(text):
        return False
    if " : " in text:
        return True
    below = lines[number + 1] if number + 1 < len(lines) else ""
    return len(below) - len(below.lstrip()) > indent


def _plain_text(text: str) -> str:
    """Resolve markup."""
    text = text.translate(_SIGNS)
    if "$" in text or "\\" in text or ":m" in text:
        text = _FORMULA.sub(f" {FORMULA} ", text)
    if "`" in text or "](" in text:
        text = _ROLE.sub(lambda match: f"`{match[1].strip()}`", text)
        text = _LINK.sub(lambda match: match[1] or match[2] or "", text)
        text = _INLINE.sub(_resolve_inline, text)
    if "://" in text or "@" in text:
        text = _URL.sub("", text)
    if "]_" in text:
        text = _CITATION.sub("", text)
    if "*" in text or "__" in text:
        text = _EMPHASIS.sub(lambda match: match[2], text)
    return text


def _resolve_inline(match: re.Match[str]) -> str:
    content = match[2].strip()
    if _IDENTIFIER.match(content):
        return content.removesuffix("()")
    if _PLAIN.match(content) or _NUMERAL.match(content):
        return content
    return f" {CODE} "


def _split_sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        sentence = text[start : match.start()]
        if not _ABBREVIATION.search(sentence):
            yield sentence
            start = match.end()
    yield text[start:]


def _is_prose(tokens: list[str]) -> bool:
    num_words = num_marks = num_operators = 0
    for token in tokens:
        if _WORD.match(token):
            num_words += len(token) > 1 or token in "aAI"
        elif token in _MARKS:
            num_marks += 1
        elif token in _OPERATORS:
            num_operators += 1
        elif not token.isascii():
            return False
    return (
        num_words >= 4
        and num_words >= 0.65 * (len(tokens) - num_marks)
        and num_marks <= 0.4 * len(tokens)
        and num_operators <= 0.04 * len(tokens)
    )
