"""The code blocks of a Markdown file."""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Listing:
    """One code block: `language` as the fence says, or guessed for an indented block; `line` is where it starts."""

    language: str
    text: str
    line: int

    def commands(self) -> list[list[str]]:
        """Return the commands of a shell block as words, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def listings(path: Path) -> list[Listing]:
    """Return fenced and indented code blocks in order."""
    found: list[Listing] = []
    block: list[str] = []
    fence, start, before = "", 0, ""
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], start=1):
        opening = re.match(r"^(```+)(\w*)\s*$", line)
        if fence:
            if line.startswith(fence.split(":")[0]):
                found.append(Listing(fence.split(":")[1], "\n".join(block) + "\n", start))
                fence, block = "", []
            else:
                block.append(line)
        elif opening:
            if block:
                found.append(_indented(block, start))
                block = []
            fence, start = f"{opening[1]}:{opening[2]}", number
        elif line.startswith("    ") and (block or not before.strip()):
            start = start if block else number
            block.append(line[4:])
        elif block and not line.strip():
            block.append("")
        elif block:
            found.append(_indented(block, start))
            block = []
        before = line
    if block:
        found.append(_indented(block, start))
    return found


def _indented(block: list[str], start: int) -> Listing:
    text = "\n".join(block).rstrip() + "\n"
    if text.startswith("# configs/"):
        return Listing("yaml", text, start)
    if text.startswith("<"):  # the layout of a folder
        return Listing("", text, start)
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return Listing("bash", text, start)
    has_import = any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))
    return Listing("python" if has_import else "bash", text, start)
