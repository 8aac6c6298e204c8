"""Augmentation as a line of text, for the command line.

RandomHorizontalFlip, ColorJitter(0.4, hue=0.1), Normalize      names of fastload.augment, called or not
EachText("text", eda)                                           arguments are literals or such names
train.py:augment                                                a name in a Python file, which is run
"""

from __future__ import annotations

import ast
import difflib
import runpy
from pathlib import Path
from typing import Any

from fastload import augment
from fastload.errors import ConfigError, FastloadError


def parse_augment(text: str) -> list[Any]:
    """The operations that a line of text stands for.

    Raises:
        ConfigError: it does not parse, a name that `fastload.augment` or the file lacks, or arguments that an operation
            does not take.
    """
    file, colon, name = text.rpartition(":")
    if colon and file.endswith(".py") and name.isidentifier():
        return _from_file(Path(file), name)
    try:
        tree = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError as error:
        raise ConfigError(f"--augment {text!r}: {error.msg}; write it as RandomHorizontalFlip, Normalize()") from None
    assert isinstance(tree, ast.List)
    return [_operation(each, text) for each in tree.elts]


def _from_file(path: Path, name: str) -> list[Any]:
    if not path.is_file():
        raise ConfigError(f"--augment {path}:{name}: no file {str(path)!r}")
    try:
        names = runpy.run_path(str(path))
    except FastloadError:
        raise
    except Exception as error:  # whatever the user's own file raises
        raise ConfigError(f"--augment {path}:{name}: {path} raised {type(error).__name__}: {error}") from error
    if name not in names:
        close = difflib.get_close_matches(name, [n for n in names if not n.startswith("__")], 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"--augment {path}:{name}: the file defines no {name!r}{hint}")
    found = names[name]
    return list(found) if isinstance(found, list | tuple) else [found]


def _operation(node: ast.expr, text: str) -> Any:
    """What stands in a list: a bare name is called without arguments."""
    found = _value(node, text)
    return _called(found, [], {}, node.id, text) if isinstance(node, ast.Name) else found


def _value(node: ast.expr, text: str) -> Any:
    """A literal, a name of fastload.augment, or a call of one."""
    match node:
        case ast.Name(id=name):
            return _named(name, text)
        case ast.Call(func=ast.Name(id=name)):
            arguments = [_value(each, text) for each in node.args]
            keywords = {each.arg: _value(each.value, text) for each in node.keywords if each.arg is not None}
            return _called(_named(name, text), arguments, keywords, ast.unparse(node), text)
        case ast.List() | ast.Tuple():
            items = [_operation(each, text) for each in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ConfigError(
            f"--augment {text!r}: {ast.unparse(node)!r} is neither a literal nor a name of fastload.augment; "
            "put what needs more into a file and pass file.py:name"
        ) from None


def _called(function: Any, arguments: list[Any], keywords: dict[str, Any], what: str, text: str) -> Any:
    try:
        return function(*arguments, **keywords)
    except TypeError as error:
        raise ConfigError(f"--augment {text!r}: {what}: {error}") from None


def _named(name: str, text: str) -> Any:
    if name not in augment.__all__:
        close = difflib.get_close_matches(name, augment.__all__, 1)
        hint = f"; did you mean {close[0]}?" if close else ", ".join(("; it has", *augment.__all__))
        raise ConfigError(f"--augment {text!r}: fastload.augment has no {name!r}{hint}")
    return getattr(augment, name)
