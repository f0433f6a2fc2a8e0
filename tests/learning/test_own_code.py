"""What counts of the code that a model's file reaches, and that it is what runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.cache.keys import content_of
from tasks.errors import ModelError
from tasks.learning import own_code
from tasks.learning.own_model import call_own_model, find_own_model
from tasks.records import OwnModel

VALUE = "def value(height):\n    return {}\n"


@pytest.fixture(autouse=True)
def _process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With bytecode, as Python has it unless told otherwise; nothing stays imported."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    own_code.versions_of.cache_clear()
    own_code.distributions.cache_clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python looks for modules in, and the model's file does not lie in."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where distributions are installed: `nets_library` 1.0, which needs `nets_base` 1.0."""
    folder = tmp_path / "site-packages"
    write(folder / "nets_library" / "__init__.py", "units = 1")
    write(folder / "nets_base.py", "units = 1")
    write(folder / "nobodys.py", "units = 1")
    install(folder, "nets-library", "1.0", "nets_library", "nets-base>=1; python_version>'3'")
    install(folder, "nets-base", "1.0", "nets_base", "nets-extra; extra == 'more'")
    monkeypatch.syspath_prepend(folder)
    return folder


def install(folder: Path, name: str, version: str, package: str, *requires: str) -> None:
    own_code.versions_of.cache_clear()  # as in a new process
    own_code.distributions.cache_clear()
    metadata = folder / f"{name.replace('-', '_')}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    write(metadata / "METADATA", "\n".join(lines) + "\n")
    write(metadata / "top_level.txt", package)


def write(path: Path, source: str) -> Path:
    """Write or edit a file; an edit keeps the time, and mostly the size."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(source, encoding="utf-8")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    importlib.invalidate_caches()
    return path


def nets(folder: Path, source: str) -> Path:
    return write(folder / "nets" / "nets.py", f"{source}\nvalue = 1\n")


def found(path: Path) -> OwnModel:
    return find_own_model(f"{path}:value")


def called(path: Path) -> object:
    return call_own_model(found(path), height=1)


# --- what counts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "from package import *",
        "import importlib\nimportlib.import_module('package.second')",
        "import importlib as i\nunits = i.import_module('package.second').units",
        "from importlib import import_module\nimport_module('package.second')",
        "from importlib import import_module\nimport_module('.second', 'package')",
        "__import__('package.second')",
        "def value():\n    __import__('package.second')",
        "import third",
    ],
)
def test_module_that_is_imported_in_any_way_counts(source: str, tmp_path: Path) -> None:
    path = nets(tmp_path, source)
    write(path.with_name("package") / "__init__.py", "__all__ = ['second']")
    write(path.with_name("third.py"), "import importlib\nimportlib.import_module('package.second')")
    write(path.with_name("package") / "second.py", "units = 1")
    before = found(path)
    write(path.with_name("package") / "second.py", "units = 2")
    assert before.sha256 != found(path).sha256
    assert before.unfollowed == ()


def test_star_counts_no_modules_of_a_package_that_does_not_say_so(tmp_path: Path) -> None:
    path = nets(tmp_path, "from package import *")
    write(path.with_name("package") / "__init__.py", "units = 1")
    write(path.with_name("package") / "second.py", "units = 1")
    before = found(path)
    write(path.with_name("package") / "second.py", "units = 2")
    assert before == found(path)


@pytest.mark.parametrize("file", ["layers_of_mine.py", "layers_of_mine/__init__.py"])
def test_module_elsewhere_on_the_path_counts_by_content(
    file: str, elsewhere: Path, tmp_path: Path
) -> None:
    path = nets(tmp_path, "import layers_of_mine")
    write(elsewhere / file, "units = 1")
    before = found(path)
    write(elsewhere / file, "units = 2")
    assert before.sha256 != found(path).sha256


def test_what_a_module_elsewhere_imports_counts(elsewhere: Path, tmp_path: Path) -> None:
    path = nets(tmp_path, "import first")
    write(elsewhere / "first.py", "from space.second import units")
    write(elsewhere / "space" / "second.py", "units = 1")
    before = found(path)
    write(elsewhere / "space" / "second.py", "units = 2")
    assert before.sha256 != found(path).sha256


def test_parts_of_a_package_without_a_file_count_wherever_they_lie(
    elsewhere: Path, tmp_path: Path
) -> None:
    path = nets(tmp_path, "import space.here, space.there")
    write(path.with_name("space") / "here.py", "units = 1")
    write(elsewhere / "space" / "there.py", "units = 1")
    before = found(path)
    write(elsewhere / "space" / "there.py", "units = 2")
    assert before.sha256 != found(path).sha256


class Editable:
    """Finds one package where pip's editable installs have left it: on no path."""

    def __init__(self, name: str, file: Path) -> None:
        self._name, self._file = name, file

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> object:
        if name != self._name:
            return None
        folders = [str(self._file.parent)]
        spec = importlib.util.spec_from_file_location
        return spec(name, self._file, submodule_search_locations=folders)


def test_editable_install_counts_by_content(tmp_path: Path) -> None:
    path = nets(tmp_path, "import my_project.second")
    write(tmp_path / "src" / "second.py", "units = 1")
    file = write(tmp_path / "src" / "__init__.py", "units = 1")
    sys.meta_path.append(Editable("my_project", file))
    before = found(path)
    write(tmp_path / "src" / "second.py", "units = 2")
    assert before.sha256 != found(path).sha256


@pytest.mark.parametrize("name", ["nets-library", "nets-base"])
def test_installed_library_counts_by_its_version_and_by_what_it_requires(
    name: str, installed: Path, tmp_path: Path
) -> None:
    path = nets(tmp_path, "import nets_library")
    before = found(path)
    requires = "nets-base>=1" if name == "nets-library" else "nets-library"  # a circle
    install(installed, name, "1.1", name.replace("-", "_"), requires)
    assert before.sha256 != found(path).sha256


def test_content_of_an_installed_library_does_not_count(installed: Path, tmp_path: Path) -> None:
    path = nets(tmp_path, "import nets_library")
    before = found(path)
    write(installed / "nets_library" / "__init__.py", "import importlib\nexec(units)")
    assert before == found(path)


def test_file_among_the_installed_that_is_no_distributions_counts_by_content(
    installed: Path, tmp_path: Path
) -> None:
    path = nets(tmp_path, "import nobodys")
    before = found(path)
    write(installed / "nobodys.py", "units = 2")
    assert before.sha256 != found(path).sha256


def test_file_itself_counts_by_content_wherever_it_lies(installed: Path) -> None:
    before = found(write(installed / "nets_base.py", "value = 1"))
    after = found(write(installed / "nets_base.py", f"exec('')\n{VALUE.format(7)}"))
    assert before.sha256 != after.sha256
    assert after.unfollowed == ("nets_base.py, line 1: exec",)
    assert called(after.path) == 7


def test_version_of_what_this_project_computes_with_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nets(tmp_path, "import sklearn.decomposition")
    before = found(path)
    own_code.versions_of.cache_clear()
    monkeypatch.setattr(own_code, "version_of", lambda _: "0")
    assert before.sha256 != found(path).sha256


def test_pythons_own_modules_do_not_count(tmp_path: Path) -> None:
    bare = found(nets(tmp_path, ""))
    imports = "import sys, math, json, _struct, xml.dom, missing.module"
    reached = own_code.reach_of(nets(tmp_path, imports))
    assert list(reached.sources) == ["nets"]
    assert reached.libraries == {}
    assert bare != found(tmp_path / "nets" / "nets.py")


# --- what cannot be followed -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "import importlib\nimportlib.import_module(name)",
            "line 2: importlib.import_module(name)",
        ),
        ("from importlib import import_module as load", "line 1: from importlib import import_m"),
        ("import importlib\nload = importlib.import_module", "line 2: importlib.import_module"),
        ("__import__(name)", "line 1: __import__(name)"),
        ("import sys\nsys.path.insert(0, 'there')", "line 2: sys.path"),
        ("from sys import path", "line 1: from sys import path"),
        ("import site\nsite.addsitedir('there')", "line 2: site.addsitedir"),
        ("exec(text)", "line 1: exec"),
        ("import runpy\nrunpy.run_path('there.py')", "line 2: runpy.run_path"),
        (
            "from importlib import util\nutil.spec_from_file_location(1, 2)",
            "line 2: util.spec_from_",
        ),
        ("import tensorflow as tf\ntf.load_op_library('there.so')", "line 2: tf.load_op_library"),
        ("getattr(i, 'import_module')(name)", "line 1: 'import_module'"),
        ("__path__.append('there')", "line 1: __path__"),
        ("import fast", "fast.so is compiled"),
        ("import old", "old.pyc is compiled"),
    ],
)
def test_what_cannot_be_followed_is_named_and_has_no_key(
    source: str, told: str, tmp_path: Path
) -> None:
    path = nets(tmp_path, source)
    path.with_name("fast.so").write_bytes(b"")
    path.with_name("old.pyc").write_bytes(b"")
    (unfollowed,) = found(path).unfollowed
    assert told in unfollowed
    with pytest.raises(TypeError, match="cannot be followed"):
        content_of(found(path))


def test_what_a_helper_hides_is_named(tmp_path: Path) -> None:
    path = nets(tmp_path, "import helper")
    write(path.with_name("helper.py"), "exec(text)")
    assert found(path).unfollowed == ("helper.py, line 1: exec",)


def test_code_of_this_project_is_trusted_and_a_file_beside_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nets(tmp_path, "import project.module\nexec(text)")
    write(path.with_name("project") / "module.py", "exec(text)")
    monkeypatch.setattr(own_code, "OF_THIS_PROJECT", (f"{path.with_name('project')}/",))
    assert found(path).unfollowed == ("nets.py, line 2: exec",)


def test_what_is_not_followed_is_imported_where_the_file_lies(tmp_path: Path) -> None:
    path = nets(
        tmp_path, "import importlib\nvalue = importlib.import_module('named_' + 'late').value"
    )
    path.write_text(path.read_text().removesuffix("value = 1\n"))
    for number in (1, 2):
        write(path.with_name("named_late.py"), VALUE.format(number))
        assert called(path) == number


@pytest.mark.parametrize(
    "source",
    [
        "model.compile('sgd')\nmodel.eval()\nx.path\npath = 1\nos.path.join(a)",
        "import sys\nprint(sys.argv, file=sys.stderr)",
        "from tasks.learning.own_model import find_own_model",
        "import keras, numpy, tensorflow",
        "from . import helper\nfrom .helper import *",
    ],
)
def test_usual_code_is_followed(source: str, tmp_path: Path) -> None:
    assert found(nets(tmp_path, source)).unfollowed == ()


# --- what runs -------------------------------------------------------------------------------


def test_edit_of_a_module_elsewhere_is_run(elsewhere: Path, tmp_path: Path) -> None:
    """Of the same size and time, with bytecode of the old one, which was imported before."""
    write(elsewhere / "layers_of_mine.py", VALUE.format(1))
    importlib.import_module("layers_of_mine")
    path = write(tmp_path / "nets.py", "from layers_of_mine import value")
    assert called(path) == 1
    write(elsewhere / "layers_of_mine.py", VALUE.format(2))
    assert called(path) == 2


def test_helper_is_imported_whenever_it_is_needed(tmp_path: Path) -> None:
    """As by a model that imports one in `call`."""
    body = "def value(height):\n    def call():\n        from helper import value\n"
    path = write(tmp_path / "nets.py", f"{body}        return value(height)\n    return call\n")
    for number in (1, 2):
        write(path.with_name("helper.py"), VALUE.format(number))
        call = called(path)
        assert callable(call)
        assert call() == number


def test_helper_that_is_edited_before_it_is_imported_is_refused(tmp_path: Path) -> None:
    body = "def value(height):\n    def call():\n        from helper import value\n"
    path = write(tmp_path / "nets.py", f"{body}        return value(height)\n    return call\n")
    write(path.with_name("helper.py"), VALUE.format(1))
    call = called(path)
    write(path.with_name("helper.py"), VALUE.format(2))
    assert callable(call)
    with pytest.raises(ModelError, match="must not change while the run uses it"):
        call()


def test_file_that_is_edited_before_it_is_used_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "nets.py", VALUE.format(1))
    own = found(path)
    write(path, VALUE.format(2))
    with pytest.raises(ModelError, match="must not change while the run uses it"):
        call_own_model(own, height=1)


def test_source_is_shown_as_it_ran(tmp_path: Path) -> None:
    """TensorFlow compiles what it converts from the source, whenever it comes to it."""
    source = "import inspect\ndef value(height):\n    return lambda: inspect.getsource(value)\n"
    path = write(tmp_path / "nets.py", source)
    shown = called(path)
    write(path, "# another\n" + source)
    assert callable(shown)
    assert shown() == source.partition("\n")[2]


@pytest.mark.parametrize("name", ["json", "yaml", "tasks", "unused_so_far"])
def test_helper_named_as_another_module_is_refused(name: str, tmp_path: Path) -> None:
    importlib.import_module(name) if name in sys.modules else None
    path = write(tmp_path / "nets.py", f"import {name}\n{VALUE.format(1)}")
    write(tmp_path / f"{name}.py", "")
    if name not in sys.modules:
        assert called(path) == 1
        return
    with pytest.raises(ModelError, match="must not have the name of another module"):
        called(path)
