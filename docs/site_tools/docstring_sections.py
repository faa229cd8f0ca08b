"""Griffe extension: render the docstring sections of the package as it writes them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_CALL_ARGUMENTS = re.compile(r"^( *)Call arguments:$", re.MULTILINE)
# Lines of a session of the interpreter: from a prompt to the next blank line or to the end.
_SESSION = re.compile(r"^( *)>>> .*\n?(?:^\1.*\S.*\n?)*", re.MULTILINE)


def _fence(match: re.Match[str]) -> str:
    indent, session = match[1], match[0].rstrip("\n")
    end = "\n" if match[0].endswith("\n") else ""
    return f"{indent}```pycon\n{session}\n{indent}```{end}"


class DocstringSections(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is None:
            return
        # Griffe knows no call arguments; a second section of parameters is the nearest.
        value = _CALL_ARGUMENTS.sub(r"\1Other Parameters: Call arguments", obj.docstring.value)
        obj.docstring.value = _SESSION.sub(_fence, value)
