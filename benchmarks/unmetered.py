"""fastload with the meter's lines taken out, to measure what they cost.

The functions that every batch runs through get the code of a second translation of their own source, which lacks these
lines. Nothing stays in their place, and each translation keeps what the interpreter has learnt of it. Clocks are still
made and handed round.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, cast

from fastload import assemble, engine, flow

FUNCTIONS = {
    engine: (engine.Engine.__next__, engine.Engine._finish, engine._work_on),
    flow: (flow.flow,),
    assemble: (assemble.BatchJob.run,),
}
LINES = ("clock.", "self.clock.", "rows = rows_of(batch)", "shared.finished_jobs", "self._taken")


class _Without(ast.NodeTransformer):
    def __init__(self) -> None:
        self.inside: list[str] = []
        self.taken: Counter[str] = Counter()

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Expr | ast.Assign | ast.AugAssign) and ast.unparse(node).startswith(LINES):
            self.taken[".".join(self.inside)] += 1
            return None
        named = isinstance(node, ast.ClassDef | ast.FunctionDef)
        if named:
            self.inside.append(node.name)  # type: ignore[attr-defined]
        self.generic_visit(node)
        if named:
            self.inside.pop()
        if getattr(node, "body", None) == []:
            node.body = [ast.copy_location(ast.Pass(), node)]  # type: ignore[attr-defined]
        return node


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _without_meter() -> dict[FunctionType, CodeType]:
    found: dict[FunctionType, CodeType] = {}
    for module, functions in FUNCTIONS.items():
        path = str(module.__file__)
        without = _Without()
        tree = ast.fix_missing_locations(without.visit(ast.parse(Path(path).read_text(encoding="utf-8"))))
        codes = {code.co_qualname: code for code in _codes(compile(tree, path, "exec", dont_inherit=True))}
        for each in functions:
            function = cast("FunctionType", each)
            assert without.taken[function.__qualname__], f"{function.__qualname__} has no line of the meter any more"
            found[function] = codes[function.__qualname__]
    return found


_WITHOUT = _without_meter()
_WITH = {function: function.__code__ for function in _WITHOUT}


def run_metered(metered: bool) -> None:
    """Iterations that begin from now on have the meter's lines, or not. To be said before each, of either kind: the
    interpreter forgets some of what it has learnt whenever code is set."""
    for function, code in (_WITH if metered else _WITHOUT).items():
        function.__code__ = code
