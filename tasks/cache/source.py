"""Python source as it counts in a key: its digest, and what it imports.

    Source(path="/…/nets.py", sha256="5d0c…", imports=("keras", "helper", "helper.scale"),
           unfollowed=("line 7: importlib.import_module(name)",), …)

It is read, never run, and digested as a syntax tree without docstrings: comments, layout and
documentation do not count. Parsing takes most of the time, so what was found is noted beside the
bytecode, `__pycache__/nets.cpython-311.source`, under a digest of it and of all that decides it:
the text, the module's name, and the code that reads, as it runs.
"""

from __future__ import annotations

import ast
import hashlib
import json
import marshal
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, NamedTuple

from tasks import PARSING
from tasks.cache.bytecode import write_whole

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Of each kind of node the fields that count. Whether a name is read or written (`ctx`), its place
# in the tree says.
FIELDS = {
    kind: tuple(field for field in kind._fields if field != "ctx")
    for kind in vars(ast).values()
    if isinstance(kind, type) and issubclass(kind, ast.AST)
}
IMPORTING = {ast.Import, ast.ImportFrom, ast.Call, ast.Name, ast.Attribute, ast.Constant}
IMPORTERS = {"import_module", "__import__"}
# What imports, or changes where imports are looked for, in ways that the source does not show.
HIDING = IMPORTERS | {
    *("run_module", "run_path", "load_module", "exec_module", "resolve_name", "locate"),
    *("spec_from_file_location", "spec_from_loader", "SourceFileLoader", "zipimporter"),
    *("addsitedir", "extend_path", "__path__", "meta_path", "path_hooks"),
    *("CDLL", "LoadLibrary", "load_library", "load_op_library"),
}
HIDING_BUILTINS = {"exec", "eval"}
HIDING_IN_SYS = {"path", "modules"}
ALL, STAR = "__all__", ".*"
SHOWN = 60  # letters of a piece of code
# Of this module's own code, rather than of its file, which may be another by now.
READER = hashlib.sha256(marshal.dumps(sys._getframe().f_code, 2)).hexdigest()  # noqa: SLF001


class Source(NamedTuple):
    """One file of source code, and the modules that it may import.

    `imports`: `p.*` stands for `from p import *`. `lists_all`: whether it has a name `__all__`.
    `unfollowed`: where it may import what nobody can tell without running it.
    """

    path: str
    sha256: str
    imports: tuple[str, ...]
    lists_all: bool
    unfollowed: tuple[str, ...]


def noted_source(path: str, module: str) -> Source:
    """What `read_source` gives, from its note if that is whole and of this very text."""
    text = Path(path).read_bytes()
    note = Path(cache_from_source(path)).with_suffix(".source")
    with suppress(OSError, ValueError):
        seal, _, found = note.read_bytes().partition(b"\n")
        if seal == _seal(path, module, text, found):
            sha256, imports, lists_all, unfollowed = json.loads(found)
            return Source(path, sha256, tuple(imports), lists_all, tuple(unfollowed))
    source = read_source(path, module, text)
    if not sys.dont_write_bytecode:
        content = json.dumps(source[1:]).encode()
        with suppress(OSError):
            write_whole(note, _seal(path, module, text, content) + b"\n" + content)
    return source


def _seal(path: str, module: str, text: bytes, content: bytes) -> bytes:
    made_of = READER, sys.version, path, module, text, content
    return hashlib.sha256(repr(made_of).encode()).hexdigest().encode()


def read_source(path: str, module: str, text: bytes | None = None) -> Source:
    """Digest the file of a module, or the text that was read of it, and list its imports."""
    flat: list[str] = []
    importing: list[Any] = []
    with PARSING:
        parsed = ast.parse(Path(path).read_bytes() if text is None else text, filename=path)
    waiting: list[Any] = [parsed]
    while waiting:  # the tree from its root on: of each node its type, then its fields
        node = waiting.pop()
        kind = type(node)
        if kind in FIELDS:
            if kind in IMPORTING:
                importing.append(node)
            elif kind in DOCUMENTED and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            flat.append(kind.__name__)
            for field in FIELDS[kind]:
                value = getattr(node, field, None)
                # Without empty ones: each version of Python adds some, and keys would differ.
                if value is not None and value != []:
                    flat.append(field)
                    waiting.append(value)
        elif kind is list:
            flat.append(str(len(node)))
            waiting += node
        else:
            flat.append(repr(node))
    package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
    imports = [name for node in importing for name in _imported(node, package)]
    return Source(
        path=path,
        sha256=hashlib.sha256("\n".join(flat).encode()).hexdigest(),
        imports=tuple(dict.fromkeys(imports)),
        lists_all=any(isinstance(node, ast.Name) and node.id == ALL for node in importing),
        unfollowed=tuple(_unfollowed(importing, package)),
    )


def follow(module: str, read: Callable[[str], Source | None]) -> dict[str, Source]:
    """The sources that a module reaches through imports, itself included, by module.

    `read` gives that of a module, if it has one that counts.
    """
    reached, waiting, seen = dict[str, Source](), [module], {module}
    while waiting:
        name = waiting.pop()
        if name.endswith(STAR):
            package = read(name.removesuffix(STAR))
            new = set(_modules_beside(package)) if package and package.lists_all else set()
            new = {f"{name.removesuffix(STAR)}.{each}" for each in new}
        elif source := read(name):
            reached[name] = source
            new = {*source.imports, *_parents(name)}
        else:
            continue
        waiting += new - seen
        seen |= new
    return reached


def listing(folder: str) -> frozenset[str]:
    """The names in a folder; none if it cannot be read."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - text
    except OSError:
        return frozenset()


def _modules_beside(package: Source) -> Iterator[str]:
    """What may be modules of a package: any of them can be in its `__all__`."""
    folder, _, file = package.path.rpartition("/")
    names = listing(folder) if file == "__init__.py" else ()
    return (name.removesuffix(".py") for name in names)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """The modules that one statement or call may import."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            base = _absolute("." * level + (module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in names)  # perhaps submodules
        case ast.Call():
            if literal := _literal_import(node, package):
                yield literal


def _absolute(name: str, package: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    origin = package.rsplit(".", level - 1)[0]  # a dot for the package itself, one for each above
    return f"{origin}.{name[level:]}".removesuffix(".")


def _literal_import(call: ast.Call, package: str) -> str | None:
    """`import_module("a.b")`, `__import__("a.b")` or `import_module(".b", "a")`; None: another."""
    if _called(call.func) not in IMPORTERS:
        return None
    match [*call.args, *(keyword.value for keyword in call.keywords)]:
        case [ast.Constant(value=str(name)), *_] if not name.startswith("."):
            return name
        case [ast.Constant(value=str(name)), ast.Constant(value=str(within))]:
            return _absolute(name, within)
        case [ast.Constant(value=str(name)), ast.Name(id="__package__")] if package:
            return _absolute(name, package)
    return None


def _called(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return None


def _unfollowed(importing: Iterable[Any], package: str) -> Iterator[str]:
    """The places where imports cannot be followed; a node comes before those within it."""
    done = set[int]()
    for node in importing:
        if isinstance(node, ast.Call) and _called(node.func) in IMPORTERS:
            done.add(id(node.func))
            if _literal_import(node, package):
                continue
        elif id(node) in done or not _hides(node):
            continue
        yield f"line {node.lineno}: {ast.unparse(node)[:SHOWN]}"


def _hides(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name):
            return name in HIDING or name in HIDING_BUILTINS
        case ast.Attribute(value=ast.Name(id="sys"), attr=name):
            return name in HIDING or name in HIDING_IN_SYS
        case ast.Attribute(attr=name):
            return name in HIDING
        case ast.Constant(value=str(text)):
            return text in HIDING
        case ast.ImportFrom(module=module, names=aliases):
            renamed = {alias.name for alias in aliases if alias.asname not in (None, alias.name)}
            taken = {alias.name for alias in aliases}
            return bool(renamed & HIDING or (module == "sys" and taken & HIDING_IN_SYS))
    return False


def _parents(module: str) -> Iterator[str]:
    while module := module.rpartition(".")[0]:
        yield module
