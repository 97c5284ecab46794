"""The options that a project gives pytest in its own files, without those that would disturb.

Reads what a stranger wrote, so whatever cannot be read counts as nothing. Coverage, parallel runs,
random order and repetition are taken out, with the plug-ins that bring them: they change which
tests run, in which process or in which order, and cost time.
"""

import configparser
import re
import shlex
import tomllib
from collections.abc import Mapping
from typing import Any, Final

DISTURBING: Final = {
    # option: whether the next word is its value, unless that is written with `=`
    "--cov": 1, "--cov-append": 0, "--cov-branch": 0, "--cov-config": 1, "--cov-context": 1,
    "--cov-fail-under": 1, "--cov-report": 1, "--cov-reset": 0, "--no-cov": 0,
    "--no-cov-on-fail": 0,
    "-n": 1, "--numprocesses": 1, "--dist": 1, "--maxprocesses": 1, "--tx": 1,
    "--maxfail": 1, "--exitfirst": 0, "--lf": 0, "--last-failed": 0, "--ff": 0,
    "--failed-first": 0, "--sw": 0, "--stepwise": 0, "--nf": 0,
    "--reruns": 1, "--reruns-delay": 1, "--count": 1, "--random-order": 0,
    "--random-order-bucket": 1, "--randomly-seed": 1,
    "--benchmark-autosave": 0, "--benchmark-disable": 0, "--benchmark-skip": 0,
    "--benchmark-sort": 1, "--benchmark-columns": 1, "--benchmark-group-by": 1,
    "--html": 1, "--self-contained-html": 0, "--junitxml": 1, "--junit-xml": 1,
    "--mypy": 0, "--flake8": 0, "--black": 0, "--isort": 0, "--pylint": 0, "--ruff": 0,
    "--codspeed": 0, "--testmon": 0, "--sugar": 0, "--durations": 1, "--durations-min": 1,
    "--verbose": 0, "--quiet": 0, "--showlocals": 0, "--color": 1, "--tb": 1, "-r": 1,
    # Unknown settings of a plug-in that is not there would end the run before it begins.
    "--strict-config": 0,
}  # fmt: skip
"""Options of plug-ins that need not be there, and those that are a matter of taste."""

_SHORT: Final = re.compile(r"-(?:v+|q+|s|l|x|r\w+|n\w+)")
"""The same in one letter: how much is printed, when to stop, in how many processes."""

FILES: Final = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
"""Where pytest looks, in its order; the first with a section of its own decides."""

STEADY: Final = (
    "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:random_order",
    "-p", "no:rerunfailures", "--continue-on-collection-errors", "--tb=short", "-q", "--rootdir=.",
)  # fmt: skip
"""Given in every run; a plug-in that is not installed may be blocked all the same. Node ids begin
at the root of the tree, also where the settings lie beside the tests."""


def own_options(files: Mapping[str, str]) -> list[str]:
    """The words of `addopts`, from the texts of `FILES` that exist, without the disturbing ones."""
    for name in FILES:
        section = _section(name, files[name]) if name in files else None
        if section is not None:
            return without_disturbing(_words(section.get("addopts", "")))
    return []


def without_disturbing(words: list[str]) -> list[str]:
    """The words that stay; an option goes with its value."""
    kept: list[str] = []
    takes_next = False
    for word in words:
        name, equals, _ = word.partition("=")
        if takes_next and not word.startswith("-"):
            takes_next = False
        elif name in DISTURBING:
            takes_next = not equals and bool(DISTURBING[name])
        elif not _SHORT.fullmatch(word):
            kept.append(word)
    return kept


def _section(name: str, text: str) -> Mapping[str, Any] | None:
    if name == "pyproject.toml":
        try:
            tables = tomllib.loads(text).get("tool", {}).get("pytest", {})
        except (tomllib.TOMLDecodeError, AttributeError):
            return None
        if isinstance(tables, dict) and tables:
            tables = tables.get("ini_options", tables)
        return tables if isinstance(tables, dict) and tables else None
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except configparser.Error:
        return None
    section = "tool:pytest" if name == "setup.cfg" else "pytest"
    if section in parser:
        return dict(parser[section])
    return {} if name.endswith("pytest.ini") else None


def _words(given: object) -> list[str]:
    if isinstance(given, list):
        return [str(word) for word in given]
    try:
        return shlex.split(str(given or ""))
    except ValueError:
        return []
