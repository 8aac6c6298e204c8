"""Imports point one way: LAYERS is the list, and these tests hold every module of the package to it.

Module names below leave out the leading `fastload.`; the package's own `__init__` is the empty name.
"""

from __future__ import annotations

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

import fastload.errors
from fastload.pack import pack

PACKAGE = Path(fastload.errors.__file__).parent

# From the bottom up. A module imports from lower rows, and from its own row as long as that makes no cycle.
# A name stands for itself and all that is inside it, unless a longer name says otherwise.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "machine"),
    ("fields", "report", "sizes", "stopping"),
    ("order._order", "order.hashing"),
    ("order",),
    ("decode", "trainers"),
    ("source", "remote", "shards"),
    ("_clock", "batch", "clock", "faults", "meter", "prepared", "statistics"),
    ("assemble", "packed"),
    ("engine", "export", "tune"),
    ("device",),
    ("ahead", "augment", "flow", "iteration"),
    ("stream",),
    ("collated", "dataset"),
    ("headstart", "mixed", "mixture", "samplers"),
    ("loader",),
    ("pack", "reshape"),
    ("inspect", "pages", "verify"),
    ("previews",),
    ("describe",),
    ("profile",),
    ("bench", "outlook"),
    ("",),
    ("demo",),
    ("cli",),
)

# What may be imported inside a function: dependencies that a plain install lacks, and those that take long to import
# and that only some programs need.
OPTIONAL = {
    "aiohttp",
    "fsspec",
    "jinja2",
    "matplotlib",
    "nibabel",
    "nltk",
    "obstore",
    "prometheus_client",
    "pydicom",
    "ray",
    "soundfile",
    "tokenizers",
}
HEAVY = {"kornia", "torchaudio", "webdataset"}

# Modules whose functions may also import the package's own: a command loads what it runs, --help waits for nothing.
COMMANDS = ("cli",)

# What the order may import besides the standard library: it is integers only.
ORDER_IMPORTS = {"numpy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement's target, as an absolute dotted name, and where it stands."""

    target: str
    line: int
    in_function: bool


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its name without the package's own; native ones are their .pyi."""
    found = {}
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.pyi")]):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(path: Path, package: Path) -> tuple[Import, ...]:
    """All imports of one file; `from a import b` gives `a.b`, which may name a module or something in one."""
    return tuple(_walk(ast.parse(path.read_text()), path.relative_to(package.parent).parent.parts, in_function=False))


def _walk(node: ast.AST, parents: tuple[str, ...], *, in_function: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(target=alias.name, line=child.lineno, in_function=in_function)
        elif isinstance(child, ast.ImportFrom):
            base = parents[: len(parents) - child.level + 1] if child.level else ()
            for alias in child.names:
                target = ".".join((*base, *([child.module] if child.module else []), alias.name))
                yield Import(target=target, line=child.lineno, in_function=in_function)
        function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, parents, in_function=in_function or function)


def imported_module(target: str, names: dict[str, Path], package: str) -> str | None:
    """The module of the package that an import's target names, the longest that exists; None for other packages."""
    if target != package and not target.startswith(package + "."):
        return None
    name = target[len(package) + 1 :]
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


def layer(module: str) -> int:
    """The row of LAYERS that a module belongs to, by the longest name that fits; -1 for none."""
    fitting = [
        (len(name), row)
        for row, names in enumerate(LAYERS)
        for name in names
        if module == name or (name and module.startswith(name + "."))
    ]
    return max(fitting)[1] if fitting else -1


def upward_imports(package: Path) -> list[str]:
    """Imports of a module in a higher row, and modules that no row names."""
    names, wrong = modules(package), []
    for module, path in names.items():
        if layer(module) < 0:
            wrong.append(f"{module}: no row of LAYERS names it; add it where it belongs")
            continue
        for found in imports(path, package):
            target = imported_module(found.target, names, package.name)
            if target is not None and layer(target) > layer(module):
                wrong.append(f"{module}, line {found.line}: imports {target or package.name}, which is above it")
    return wrong


def cycle(package: Path) -> list[str] | None:
    """Modules that import each other in a ring, first and last the same; None if there are none."""
    names = modules(package)
    graph = {
        module: {imported_module(found.target, names, package.name) for found in imports(path, package)}
        - {None, module}
        for module, path in names.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def commands(module: str) -> bool:
    """Whether COMMANDS names a module, or a package that it is in."""
    return any(module == name or module.startswith(name + ".") for name in COMMANDS)


def hidden_imports(package: Path) -> list[str]:
    """Imports inside functions of anything but OPTIONAL and HEAVY, and in COMMANDS the package's own."""
    allowed = OPTIONAL | HEAVY
    return [
        f"{module}, line {found.line}: imports {found.target} inside a function"
        for module, path in modules(package).items()
        for found in imports(path, package)
        if found.in_function
        and found.target.partition(".")[0] not in (allowed | {package.name} if commands(module) else allowed)
    ]


def test_no_module_imports_from_above() -> None:
    assert upward_imports(PACKAGE) == []


def test_no_modules_import_each_other() -> None:
    assert cycle(PACKAGE) is None


def test_nothing_is_imported_inside_functions_but_what_may_be() -> None:
    assert hidden_imports(PACKAGE) == []


def test_order_imports_numpy_and_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | ORDER_IMPORTS
    foreign = [
        f"{module}, line {found.line}: {found.target}"
        for module, path in modules(PACKAGE).items()
        if module.partition(".")[0] == "order"
        for found in imports(path, PACKAGE)
        if found.target.partition(".")[0] not in allowed
        and not found.target.startswith(("fastload.order", "fastload.errors"))
    ]
    assert foreign == []


PROGRAM = """
import json, os, random, signal, sys, threading
import numpy, torch  # what any user of fastload has imported already
before = [random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), dict(os.environ)]
handlers = [str(signal.getsignal(number)) for number in signal.valid_signals()]
modules, threads = set(sys.modules), threading.active_count()
import fastload
after = [random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(), dict(os.environ)]
added = sorted({name.partition(".")[0] for name in set(sys.modules) - modules})
fastload.DataLoader, fastload.augment.MixUp  # what most programs use
print(json.dumps({
    "added": added,
    "unchanged": before == after,
    "handlers": handlers == [str(signal.getsignal(number)) for number in signal.valid_signals()],
    "threads": threading.active_count() - threads,
    "process_group": torch.distributed.is_available() and torch.distributed.is_initialized(),
    "cuda": torch.cuda.is_initialized(),
    "compiler": "torch._dynamo" in sys.modules,  # takes as long to import as torch itself
}))
from fastload.augment import Normalize, RandomHorizontalFlip
fields = {"image": fastload.Image(16, crop="random"), "label": fastload.Scalar()}
augment = [RandomHorizontalFlip(), Normalize()]
for batch in fastload.DataLoader(sys.argv[1], 4, fields=fields, num_workers=2, augment=augment):
    pass
for batch in fastload.DataLoader(sys.argv[1], 4, fields={"text": fastload.Bytes()}):
    pass
for batch in fastload.DataLoader(sys.argv[2], 4):
    pass
print(json.dumps(sorted(set(sys.modules) - modules)))
"""
# Of torch: its compiler, with all that it imports, is 80 MiB and seconds that only programs which compile should pay.
NOT_TO_STREAM = OPTIONAL | HEAVY | {"pandas", "rich", "sympy", "torchvision", "triton", "typer"}


@pytest.fixture(scope="module")
def seen(packed: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What importing fastload did, and what streaming, of shards and of what `pack` made of a folder, imported."""
    texts, made = tmp_path_factory.mktemp("texts"), packed("tar", [5, 6], ("image", "label", "text"))
    for label in ("a", "b"):
        (texts / label).mkdir()
        (texts / label / "1.txt").write_text("one")
    shards = tmp_path_factory.mktemp("shards") / "out"
    pack(texts, shards, workers=1)
    command = [sys.executable, "-c", PROGRAM, str(made), str(shards)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_importing_fastload_is_light_and_leaves_no_trace(seen: list[Any]) -> None:
    imported = dict(seen[0])
    assert not set(imported.pop("added")) & (OPTIONAL | HEAVY | {"torchvision", "pandas"})
    none = {"process_group": False, "cuda": False, "compiler": False}
    assert imported == {"unchanged": True, "handlers": True, "threads": 0, **none}


def test_streaming_imports_nothing_heavy(seen: list[Any]) -> None:
    added = seen[1]
    assert {name.partition(".")[0] for name in added} & NOT_TO_STREAM == set()
    above = [name for name in added if name.startswith("fastload.") and layer(name[9:]) > layer("loader")]
    assert [*above, *(name for name in added if name.startswith(("torch._dynamo", "torch._inductor")))] == []


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with one fault of each kind."""
    root = tmp_path / "fastload"
    files = {
        "__init__.py": "from fastload.loader import DataLoader",
        "fields.py": "from .errors import FastloadError",
        "errors.py": "def f():\n    import json\n    import ray.data",
        "order/__init__.py": "from fastload import loader",
        "order/hashing.py": "import fastload.order.cursor",
        "order/cursor.py": "from . import hashing",
        "loader.py": "import fastload.order",
        "cli.py": "def run():\n    import fastload.loader\n    import json",
        "misc.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_an_upward_import_is_found(package: Path) -> None:
    assert upward_imports(package) == [
        "misc: no row of LAYERS names it; add it where it belongs",
        "order, line 1: imports loader, which is above it",
        "order.hashing, line 1: imports order.cursor, which is above it",
    ]


def test_a_cycle_is_found(package: Path) -> None:
    ring = cycle(package)
    assert ring is not None
    assert set(ring) in ({"order", "loader"}, {"order.hashing", "order.cursor"})


def test_an_import_inside_a_function_is_found(package: Path) -> None:
    assert hidden_imports(package) == [
        "cli, line 3: imports json inside a function",
        "errors, line 2: imports json inside a function",
    ]
