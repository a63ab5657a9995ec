"""Rewards in Python that an administrator put into the server's rewards folder: `file:NAME` is NAME.py there."""

from __future__ import annotations

import ast
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "file:"
FUNCTION = "reward"
COLUMNS = "COLUMNS"
MAX_SOURCE = 2**20
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class FileRewardRefused(Exception):
    """The file is not there, cannot be read as a reward, or could have been written by anybody."""


@dataclass(frozen=True)
class FileReward:
    """What a rewards file says of itself, read without running it.

    `parameters` maps a name to its default as JSON (None if it is no literal); `required` have none; `open` means that
    it takes any others too.
    """

    name: str
    path: Path
    description: str
    parameters: dict[str, Any]
    required: tuple[str, ...]
    open: bool
    columns: tuple[str, ...]
    source: str

    def load(self) -> Callable[..., list[float]]:
        """Run the file's source and give its function; raises what the source raises."""
        names: dict[str, Any] = {"__name__": f"opensloth_reward_{self.name}", "__file__": str(self.path)}
        exec(compile(self.source, str(self.path), "exec"), names)
        function: Callable[..., list[float]] = names[FUNCTION]
        return function


def list_files(folder: Path | None) -> list[FileReward]:
    """Every file of the folder that can be used, by name."""
    if folder is None or not folder.is_dir():
        return []
    found = []
    for path in sorted(folder.glob("*.py")):
        try:
            found.append(read_file(folder, path.stem))
        except FileRewardRefused:
            continue  # `read_file` tells whoever asks for it by name why
    return found


def read_file(folder: Path | None, name: str) -> FileReward:
    """The reward of that name; raises FileRewardRefused that says why not."""
    if folder is None:
        raise FileRewardRefused("this server has no rewards folder")
    if not _NAME.fullmatch(name):
        raise FileRewardRefused("a name is a letter and then letters, digits or _")
    path = folder / f"{name}.py"
    try:
        _refuse_writable(folder, os.stat(folder))
        # O_NOFOLLOW and fstat on the open file: what was checked is what is read.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileRewardRefused(f"{name}.py is no plain file")
            _refuse_writable(path, status)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                source = file.read(MAX_SOURCE + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise FileRewardRefused(f"there is no {name}.py in the server's rewards folder") from None
    except OSError as error:
        raise FileRewardRefused(f"{name}.py cannot be read: {error.strerror}") from None
    if len(source) > MAX_SOURCE:
        raise FileRewardRefused(f"{name}.py is larger than {MAX_SOURCE} bytes")
    return _describe(name, path, source)


def _refuse_writable(path: Path, status: os.stat_result) -> None:
    if status.st_mode & stat.S_IWOTH:
        raise FileRewardRefused(f"{path.name} can be written by everybody; take that away with chmod o-w")


def _describe(name: str, path: Path, source: bytes) -> FileReward:
    try:
        text = source.decode()
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise FileRewardRefused(f"{name}.py is no Python: {error}") from None
    function = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == FUNCTION), None)
    if function is None:
        raise FileRewardRefused(f"{name}.py defines no `def {FUNCTION}(completions, rows, **params)`")
    taken = function.args
    positional = [*taken.posonlyargs, *taken.args]
    if len(positional) < 2:
        raise FileRewardRefused(f"`{FUNCTION}` in {name}.py must take `completions` and `rows`")
    defaults = dict(zip((arg.arg for arg in reversed(positional)), reversed(taken.defaults), strict=False))
    defaults |= {arg.arg: default for arg, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True) if default}
    names = [arg.arg for arg in [*positional[2:], *taken.kwonlyargs]]
    described = ast.get_docstring(function) or ast.get_docstring(tree) or ""
    return FileReward(
        name=name,
        path=path,
        description=described.strip().split("\n\n")[0],
        parameters={key: _literal(defaults.get(key)) for key in names},
        required=tuple(key for key in names if key not in defaults),
        open=taken.kwarg is not None,
        columns=_columns(tree),
        source=text,
    )


def _columns(tree: ast.Module) -> tuple[str, ...]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == COLUMNS for t in node.targets):
            value = _literal(node.value)
            if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                return tuple(value)
    return ()


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        return None
