"""Each guarantee that the cache's document gives names what holds it, and that is there."""

from __future__ import annotations

import re

import pytest
from programs import ROOT

TEXT = (ROOT / "tasks" / "cache" / "README.md").read_text()
GUARANTEES = TEXT.partition("## Guarantees\n")[2].partition("\n## ")[0].strip().split("\n\n")
NAMED = re.compile(r"`(test_\w+\.py|test_\w+|Test\w+)`")
DEFINED = re.compile(r"^ *(?:def|class) (test_\w+|Test\w+)\b", re.MULTILINE)


@pytest.fixture(scope="module")
def there() -> set[str]:
    """The names of all files, classes and functions of tests."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    return {path.name for path in files}.union(*(DEFINED.findall(f.read_text()) for f in files))


@pytest.mark.parametrize("guarantee", GUARANTEES, ids=lambda text: text.partition(".")[0])
def test_guarantee_names_tests_that_are_there(guarantee: str, there: set[str]) -> None:
    assert guarantee.startswith("**")
    assert NAMED.findall(guarantee)
    assert set(NAMED.findall(guarantee)) <= there
