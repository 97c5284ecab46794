"""What a project needs for its tests is read from its files, whatever their style and state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.observe.requirements import METADATA, is_wanted, needs

PYPROJECT = """
[build-system]
requires = ["hatchling", "hatch-vcs"]
build-backend = "hatchling.build"

[project]
name = "My.Project"
requires-python = ">=3.8"
dependencies = ["attrs>=21", "typing-extensions; python_version<'3.11'"]

[project.optional-dependencies]
tests = ["freezegun", "pytest>=6.0"]
docs = ["sphinx", "furo"]
dev = ["my_project[tests,docs]", "pre-commit"]
"""


def test_standard_metadata_is_read() -> None:
    found = needs({"pyproject.toml": PYPROJECT})
    assert found.name == "My.Project"
    assert found.runtime == ("attrs>=21", 'typing-extensions; python_version < "3.11"')
    assert found.tests == ("freezegun", "pytest>=6.0")
    assert found.build == ("hatch-vcs", "hatchling")
    assert found.backend == "hatchling.build"
    assert found.requires_python == ">=3.8"


def test_without_a_test_group_the_development_group_counts_less_its_tools() -> None:
    text = """
[project]
name = "x"
[dependency-groups]
lint = ["ruff"]
dev = [{include-group = "lint"}, "pytest-asyncio", "mypy", "hypothesis>=6"]
"""
    assert needs({"pyproject.toml": text}).tests == ("hypothesis>=6", "pytest", "pytest-asyncio")


def test_an_extra_of_the_project_itself_stands_for_its_lines() -> None:
    text = """
[project]
name = "x"
[project.optional-dependencies]
base = ["numpy"]
test = ["x[base]", "x[test]", "pytest"]
"""
    assert needs({"pyproject.toml": text}).tests == ("numpy", "pytest")


def test_groups_that_include_each_other_end() -> None:
    text = """
[dependency-groups]
test = [{include-group = "dev"}, "a"]
dev = [{include-group = "test"}, "b"]
"""
    assert needs({"pyproject.toml": text}).tests == ("a", "b", "pytest")


def test_poetry_gives_names() -> None:
    text = """
[tool.poetry]
name = "rich"
[tool.poetry.dependencies]
python = "^3.8"
pygments = "^2.13.0"
ipywidgets = { version = ">=7.5", optional = true }
[tool.poetry.group.dev.dependencies]
pytest = "^7"
attrs = "^21"
mypy = "*"
"""
    found = needs({"pyproject.toml": text})
    assert (found.runtime, found.tests) == (("pygments",), ("attrs", "pytest"))
    assert found.requires_python == ">=3.8,<4"


@pytest.mark.parametrize(
    ("poetry", "standard"),
    [
        ("^3.6.3", ">=3.6.3,<4"),
        ("~3.9", ">=3.9,<3.10"),
        (">=3.7,<4.0", ">=3.7,<4.0"),
        ("*", ""),
        ("^3.8 || ^4", ""),
    ],
)
def test_poetrys_bounds_of_python_are_put_into_standard_words(poetry: str, standard: str) -> None:
    text = f'[tool.poetry.dependencies]\npython = "{poetry}"\n'
    assert needs({"pyproject.toml": text}).requires_python == standard


def test_setup_cfg_is_read() -> None:
    text = """
[metadata]
name = old
[options]
install_requires =
    click >= 7
    # a comment
python_requires = >=3.6
[options.extras_require]
testing = pytest; mock
    coverage
"""
    found = needs({"setup.cfg": text, "setup.py": "from setuptools import setup\nsetup()"})
    assert found.runtime == ("click>=7",)
    assert "coverage" in found.tests
    assert found.backend == "setuptools.build_meta:__legacy__"
    assert found.build == ("setuptools", "wheel")


def test_setup_py_is_read_without_running_it() -> None:
    text = """
import os
import setuptools
os.abort()
REQUIRES = ["docopt", "pytest<8"]
EXTRAS = {"tests": ["zope.interface"] + REQUIRES, "docs": open("x").read()}
setuptools.setup(name="p", install_requires=["six"], tests_require=EXTRAS["tests"],
                 extras_require=EXTRAS, python_requires=">=3.6", **more)
"""
    found = needs({"setup.py": text})
    assert found.name == "p"
    assert found.runtime == ("six",)
    assert found.tests == ("docopt", "pytest<8", "zope.interface")
    assert found.requires_python == ">=3.6"


def test_requirement_files_and_tox_are_read() -> None:
    found = needs({
        "dev-requirements.txt": "-r other.txt\npytest==7.1 --hash=sha256:00\nattrs  # why\n-e .\n",
        "requirements/test.in": "hypothesis\n",
        "tox.ini": "[testenv]\ndeps =\n  -r x.txt\n  {[base]deps}\n  coverage[toml]\n",
    })  # fmt: skip
    assert found.tests == ("attrs", "coverage[toml]", "hypothesis", "pytest==7.1")


def test_the_project_itself_and_its_tools_are_no_needs() -> None:
    text = '[project]\nname = "Pip_Tools"\ndependencies = ["pip", "click"]\n'
    found = needs({"pyproject.toml": text, "test-requirements.txt": "pip-tools\ntox\nblack\npip\n"})
    assert found.runtime == ("click", "pip")
    assert found.tests == ("pip", "pytest")


def test_what_cannot_be_understood_is_said() -> None:
    found = needs({"test-requirements.txt": "good\nb@d\nx @ https://example.org/x.whl\n"})
    assert found.tests == ("good", "pytest")
    assert found.ignored == ("b@d", "x @ https://example.org/x.whl")


def test_the_same_needs_have_the_same_key() -> None:
    one = needs({"pyproject.toml": PYPROJECT})
    other = needs({"pyproject.toml": PYPROJECT + "\n[tool.black]\nline-length = 3\n"})
    third = needs({"pyproject.toml": PYPROJECT.replace("attrs>=21", "attrs>=22")})
    assert one.key == other.key != third.key


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("pyproject.toml", True), ("sub/pyproject.toml", False), ("tox.ini", True),
        ("requirements-dev.txt", True), ("requirements/tests.txt", True),
        ("requirements.txt", False), ("docs/requirements.txt", False),
        ("tests/requirements.txt", True), ("src/setup.py", False),
    ],
)  # fmt: skip
def test_which_files_are_read(path: str, wanted: bool) -> None:
    assert is_wanted(path) == wanted


@given(st.dictionaries(st.sampled_from([*METADATA, "test-requirements.txt"]), st.text()))
def test_whatever_stands_there_is_survived(files: dict[str, str]) -> None:
    assert any(line.startswith("pytest") for line in needs(files).tests)


@pytest.mark.parametrize(
    "text",
    [
        "project = 3", "[project]\ndependencies = 3\noptional-dependencies = []",
        "build-system = []", "[dependency-groups]\ntest = {a = 1}",
        "[tool]\npoetry = []", "[tool.poetry]\ngroup = 3",
        "[project.optional-dependencies]\ntest = [1, {a = 2}]",
    ],
)  # fmt: skip
def test_values_of_another_kind_count_as_nothing(text: str) -> None:
    assert needs({"pyproject.toml": text}).tests == ("pytest",)
