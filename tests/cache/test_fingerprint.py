"""Fingerprints: which changes of the code count, and which do not."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
from builders import SourcePackage

from tasks.cache.keys import fingerprint_of


class Package(SourcePackage):
    """A package with the digests of its modules."""

    def code_of(self, module: str) -> dict[str, str]:
        """The digests by file, without the package's folder in front."""
        code = fingerprint_of(f"{self.name}.{module}").code
        return {name.removeprefix(f"{self.name}/"): digest for name, digest in code.items()}

    def files_of(self, module: str) -> set[str]:
        """What a module reaches besides its package's own initialiser."""
        return set(self.code_of(module)) - {"__init__.py"}

    def libraries_of(self, module: str) -> dict[str, str]:
        """The versions of the libraries that a module reaches, Python's own apart."""
        versions = fingerprint_of(f"{self.name}.{module}").libraries
        return {name: version for name, version in versions.items() if name != "python"}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package whose module `stage` imports `helper`; `stranger` stands beside them."""
    monkeypatch.syspath_prepend(tmp_path)
    package = Package(tmp_path)
    package.write("__init__.py", "")
    package.write("stage.py", "from PACKAGE.helper import half\n")
    package.write("helper.py", "def half(x):\n    return x / 2\n")
    package.write("stranger.py", "ANSWER = 42\n")
    return package


def test_module_its_package_and_its_imports_count(package: Package) -> None:
    assert list(package.code_of("stage")) == ["__init__.py", "helper.py", "stage.py"]


def test_changed_stage_changes_its_own_digest_only(package: Package) -> None:
    before = package.code_of("stage")
    package.write("stage.py", "from PACKAGE.helper import half\nTWO = 2\n")
    after = package.code_of("stage")

    assert {"stage.py"} == {name for name in before if before[name] != after[name]}


def test_changed_helper_changes_its_digest(package: Package) -> None:
    before = package.code_of("stage")
    package.write("helper.py", "def half(x):\n    return x / 3\n")
    after = package.code_of("stage")

    assert {"helper.py"} == {name for name in before if before[name] != after[name]}


def test_changed_package_initialiser_counts(package: Package) -> None:
    before = package.code_of("stage")
    package.write("__init__.py", "import os\nos.environ['SEED'] = '1'\n")

    assert before != package.code_of("stage")


def test_module_that_is_not_imported_does_not_count(package: Package) -> None:
    before = package.code_of("stage")
    package.write("stranger.py", "ANSWER = 43\n")

    assert before == package.code_of("stage")


@pytest.mark.parametrize(
    "helper",
    [
        "# halves\ndef half(x):\n    return x / 2  # exactly\n",
        "\n\ndef half(x):\n\n    return x / 2\n",
        "def half( x ) :\n    return (x/2)\n",
        '"""Fractions."""\n\n\ndef half(x):\n    """Divide by two."""\n    return x / 2\n',
    ],
    ids=["comment", "blank lines", "layout", "docstrings"],
)
def test_changes_that_compute_the_same_do_not_count(package: Package, helper: str) -> None:
    before = package.code_of("stage")
    package.write("helper.py", helper)

    assert before == package.code_of("stage")


def test_changed_docstring_of_a_class_does_not_count(package: Package) -> None:
    package.write("helper.py", 'class Half:\n    """Halves."""\n')
    before = package.code_of("stage")
    package.write("helper.py", 'class Half:\n    """Divides by two."""\n')

    assert before == package.code_of("stage")


def test_changed_text_that_is_no_docstring_counts(package: Package) -> None:
    package.write("helper.py", 'TITLE = "one"\n')
    before = package.code_of("stage")
    package.write("helper.py", 'TITLE = "two"\n')

    assert before != package.code_of("stage")


@pytest.mark.parametrize(
    ("source", "other"),
    [
        ("0", "False"),
        ("0", "0.0"),
        ("0.0", "-0.0"),
        ("0", "None"),
        ("''", "b''"),
        ("None", "..."),
        ("[]", "()"),
        ("x", "'x'"),
        ("[a, [b]]", "[[a], b]"),
        ("f(a)", "f(*a)"),
        ("f(a, b=c)", "f(a, c=b)"),
        ("lambda a, /: a", "lambda *, a: a"),
        ("'one\\\\ntwo'", "'one', 'two'"),
    ],
)
def test_code_that_looks_alike_counts_as_other(package: Package, source: str, other: str) -> None:
    package.write("helper.py", f"x = {source}\n")
    before = package.code_of("stage")
    package.write("helper.py", f"x = {other}\n")

    assert before != package.code_of("stage")


@pytest.mark.parametrize(
    "source",
    [
        "import PACKAGE.helper\n",
        "import PACKAGE.helper as h\n",
        "from PACKAGE import helper\n",
        "from PACKAGE.helper import half\n",
        "from PACKAGE.helper import *\n",
        "from . import helper\n",
        "from .helper import half\n",
        "def run():\n    from PACKAGE.helper import half\n",
        "class Run:\n    async def go(self):\n        import PACKAGE.helper\n",
        "if False:\n    from .helper import half\n",
        "try:\n    import nothing_like_it\nexcept ImportError:\n    from .helper import half\n",
    ],
)
def test_imports_of_every_form_are_followed(package: Package, source: str) -> None:
    package.write("stage.py", source)

    assert package.files_of("stage") == {"stage.py", "helper.py"}


@pytest.mark.parametrize(
    "source",
    [
        "from ..helper import half\n",
        "from .. import helper\n",
        "from PACKAGE import helper\n",
    ],
)
def test_imports_from_a_sub_package_are_followed(package: Package, source: str) -> None:
    package.write("stages/__init__.py", "")
    package.write("stages/stage.py", source)

    assert package.files_of("stages.stage") == {
        "stages/__init__.py",
        "stages/stage.py",
        "helper.py",
    }


def test_relative_imports_of_an_initialiser_start_at_its_own_package(package: Package) -> None:
    package.write("stages/__init__.py", "from .first import run\n")
    package.write("stages/first.py", "")
    package.write("stage.py", "from . import stages\n")

    assert package.files_of("stage") == {"stage.py", "stages/__init__.py", "stages/first.py"}


def test_imports_are_followed_to_the_end(package: Package) -> None:
    package.write("helper.py", "from PACKAGE.second import x\n")
    package.write("second.py", "def run():\n    from .third import x\n")
    package.write("third.py", "x = 1\n")

    assert package.files_of("stage") == {"stage.py", "helper.py", "second.py", "third.py"}


def test_modules_that_import_each_other_come_to_an_end(package: Package) -> None:
    package.write("helper.py", "import PACKAGE.stage\n")

    assert package.files_of("stage") == {"stage.py", "helper.py"}
    assert package.files_of("helper") == {"stage.py", "helper.py"}


def test_code_is_read_and_never_run(package: Package) -> None:
    package.write("helper.py", "raise SystemExit('run')\n")

    assert package.files_of("stage") == {"stage.py", "helper.py"}


def test_modules_from_elsewhere_do_not_count(package: Package) -> None:
    package.write("stage.py", "import json\nimport numpy\nfrom pytest import fixture\n")

    assert package.files_of("stage") == {"stage.py"}


def test_module_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Received: 'no_such_package\.stage'"):
        fingerprint_of("no_such_package.stage")


def test_computing_library_is_reported_with_its_version(package: Package) -> None:
    package.write("stage.py", "import numpy as np\n")

    assert {"numpy": metadata.version("numpy")} == package.libraries_of("stage")


def test_library_that_a_helper_imports_in_a_function_is_reported(package: Package) -> None:
    package.write("helper.py", "def half(x):\n    from numpy.linalg import norm\n")

    assert {"numpy": metadata.version("numpy")} == package.libraries_of("stage")


def test_libraries_that_compute_nothing_or_are_not_reached_are_left_out(package: Package) -> None:
    package.write("stage.py", "import json\nimport rich\n")
    package.write("stranger.py", "import numpy\n")

    assert package.libraries_of("stage") == {}


def test_stage_of_this_project_reaches_the_code_that_decides_its_result() -> None:
    code = fingerprint_of("tasks.preprocess").code

    reached = ("preprocess", "records", "cache/blobs", "orchestration/stage")
    assert {f"tasks/{name}.py" for name in reached} <= set(code)
    assert not {"tasks/learning/network.py", "tasks/terminal/display.py"} & set(code)


@pytest.mark.parametrize("path", ["helpers.py", "helpers/__init__.py", "helpers/half.py"])
def test_other_packages_beside_the_stage_count(path: str, package: Package, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text("HALF = 0.5\n", encoding="utf-8")
    package.write("stage.py", "from helpers import half\n")
    assert path in package.files_of("stage")


def test_other_packages_do_not_count_where_everybody_installs_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(shared)
    package = Package(shared)
    package.write("__init__.py", "")
    package.write("stage.py", "import a_library\n")
    (shared / "a_library.py").write_text("import numpy\n", encoding="utf-8")
    assert package.files_of("stage") == {"stage.py"}


def test_stage_from_elsewhere_reaches_the_code_of_this_project(package: Package) -> None:
    package.write("stage.py", "from tasks.records import SPLITS\n")
    assert "tasks/records.py" in package.files_of("stage")


def test_package_wins_over_a_module_of_the_same_name(package: Package) -> None:
    package.write("helper/__init__.py", "def half(x):\n    return x / 2\n")
    assert package.files_of("stage") == {"stage.py", "helper/__init__.py"}


def test_pythons_own_version_counts(package: Package) -> None:
    version = fingerprint_of(f"{package.name}.stage").libraries["python"]
    assert version == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_edit_that_keeps_the_time_and_the_size_is_seen(package: Package, tmp_path: Path) -> None:
    """As a copy that keeps times, or an edit within a tick of the clock."""
    before, file = package.code_of("stage"), tmp_path / package.name / "helper.py"
    status = file.stat()
    file.write_text("def half(x):\n    return x / 3\n", encoding="utf-8")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert file.stat().st_size == status.st_size
    assert before != package.code_of("stage")


def test_files_are_named_from_the_folder_of_their_package(package: Package) -> None:
    files = ["__init__.py", "helper.py", "stage.py"]

    assert [f"{package.name}/{file}" for file in files] == list(
        fingerprint_of(f"{package.name}.stage").code
    )
