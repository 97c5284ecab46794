"""What a project says it needs to be tested, read from its files without running any of them.

Understands `pyproject.toml` (standard metadata, dependency groups, Poetry), `setup.cfg`, the
literal parts of `setup.py`, requirement files and, with `tox`, `tox.ini`. Strangers wrote them:
what cannot be understood is left out, and said. Resolves nothing (`environments` does).
"""

import ast
import configparser
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from twin.observe.syntax import parsed
from twin.observe.tox import of_tox

TEST_GROUPS: Final = ("test", "tests", "testing", "test-dependencies")
"""Names of extras and groups that hold what the tests need; where there are none, `DEV_GROUPS`."""
DEV_GROUPS: Final = ("dev", "develop", "development")
TOX: Final = "tox.ini"
METADATA: Final = ("pyproject.toml", "setup.cfg", "setup.py", TOX)
REQUIREMENT_FILE: Final = re.compile(
    r"(?:(?:dev|test|tests|testing)[-_]?requirements|requirements[-_](?:dev|test|tests|testing)"
    r"|(?:requirements|tests?)/(?:test|tests|testing|requirements))\.(?:txt|in)"
)
NOT_TESTED_WITH: Final = frozenset(
    {
        "black", "build", "bump2version", "bumpversion", "check-manifest", "codecov", "coveralls",
        "cogapp", "flake8", "furo", "hatch", "isort", "mkdocs", "mypy", "nox", "pdm", "pip",
        "pip-tools", "poetry", "pre-commit", "pylint", "pyright", "ruff", "sphinx", "tox",
        "towncrier", "twine", "uv", "wheel",
    }
)  # fmt: skip
"""Tools around a project. Where one of them is what the project stands on, it is a runtime need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The requirements of a project at one commit, as it wrote them; sorted, without itself."""

    name: str
    """The distribution's name; empty where the project does not say."""
    runtime: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    build: tuple[str, ...] = ()
    backend: str = ""
    """Of PEP 517, such as `hatchling.build`."""
    backend_path: tuple[str, ...] = ()
    requires_python: str = ""
    ignored: tuple[str, ...] = ()
    """What could not be understood."""

    @property
    def key(self) -> str:
        """The same for commits that need the same."""
        said = repr((self.runtime, self.tests, self.build, self.backend, self.requires_python))
        return hashlib.sha256(said.encode()).hexdigest()[:16]


@dataclass
class _Found:
    """What has been read so far."""

    name: str = ""
    runtime: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    build: list[str] = field(default_factory=list)
    backend: str = ""
    backend_path: list[str] = field(default_factory=list)
    requires_python: str = ""
    extras: dict[str, list[str]] = field(default_factory=dict)


def needs(files: Mapping[str, str]) -> Needs:
    """The needs of a project, from the texts of its `files` (see `is_wanted`)."""
    found = _Found()
    if "pyproject.toml" in files:
        _read_pyproject(files["pyproject.toml"], found)
    if "setup.cfg" in files:
        _read_setup_cfg(files["setup.cfg"], found)
    if "setup.py" in files:
        _read_setup_py(files["setup.py"], found)
        if not found.backend:
            found.backend = "setuptools.build_meta:__legacy__"
            found.build += ["setuptools", "wheel"]
    tox = of_tox(files.get(TOX, ""))
    found.tests += _of_groups(found.extras, found.name, map(_group, tox.groups))
    for path in sorted(files):
        if REQUIREMENT_FILE.fullmatch(path):
            found.tests += _lines(files[path])
    found.tests += tox.lines
    ignored: list[str] = []
    own: set[str] = {canonicalize_name(found.name)} if found.name else set()
    clean = _Cleaner(own, ignored)
    runtime = clean(found.runtime)
    taken = {Requirement(line).name for line in runtime}
    return Needs(
        name=found.name,
        runtime=runtime,
        tests=clean([*found.tests, "pytest"], without=NOT_TESTED_WITH - taken),
        build=clean(found.build),
        backend=found.backend,
        backend_path=tuple(found.backend_path),
        requires_python=found.requires_python,
        ignored=tuple(dict.fromkeys(ignored)),
    )


def is_wanted(path: str) -> bool:
    """Whether `needs` reads this file of a tree."""
    return path in METADATA or bool(REQUIREMENT_FILE.fullmatch(path))


class _Cleaner:
    """Valid requirements only, one line each, in order of their names."""

    def __init__(self, own: set[str], ignored: list[str]) -> None:
        self._own = own
        self._ignored = ignored

    def __call__(
        self, lines: Iterable[str], without: frozenset[str] | set[str] = frozenset()
    ) -> tuple[str, ...]:
        kept: dict[str, str] = {}
        for line in lines:
            try:
                requirement = Requirement(line.split(" #")[0].strip())
            except InvalidRequirement:
                self._ignored.append(line.strip()[:200])
                continue
            name = canonicalize_name(requirement.name)
            if requirement.url:
                self._ignored.append(line.strip()[:200])
            elif name not in self._own and name not in without:
                # A name with bounds says more than the bare name that another file gives.
                text = str(requirement)
                if name not in kept or len(text) > len(kept[name]):
                    kept[name] = text
        return tuple(kept[name] for name in sorted(kept))


def _read_pyproject(text: str, found: _Found) -> None:
    try:
        told = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    build = _table(told, "build-system")
    found.build += _strings(build.get("requires"))
    found.backend = str(build.get("build-backend") or "")
    if build and not found.backend:
        found.backend = "setuptools.build_meta:__legacy__"
    found.backend_path += _strings(build.get("backend-path"))
    project = _table(told, "project")
    found.name = str(project.get("name") or "")
    found.requires_python = str(project.get("requires-python") or "")
    found.runtime += _strings(project.get("dependencies"))
    for name, lines in _table(project, "optional-dependencies").items():
        found.extras.setdefault(_group(name), []).extend(_strings(lines))
    groups = _table(told, "dependency-groups")
    for name in groups:
        found.extras.setdefault(_group(name), []).extend(_expanded(groups, name, frozenset()))
    _read_poetry(_table(_table(told, "tool"), "poetry"), found)


def _expanded(groups: Mapping[str, Any], name: str, above: frozenset[str]) -> Iterator[str]:
    """A dependency group with the groups it includes (PEP 735)."""
    if name in above:
        return
    entries = groups.get(name)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict) and isinstance(entry.get("include-group"), str):
            yield from _expanded(groups, entry["include-group"], above | {name})


def _read_poetry(poetry: Mapping[str, Any], found: _Found) -> None:
    """Names only: Poetry writes bounds in a way of its own, and the commit's date bounds too."""
    found.name = found.name or str(poetry.get("name") or "")
    asked = _table(poetry, "dependencies").get("python")
    found.requires_python = found.requires_python or _poetry_python(str(asked or ""))
    found.runtime += _poetry_names(_table(poetry, "dependencies"))
    found.tests += _poetry_names(_table(poetry, "dev-dependencies"))
    for name, group in _table(poetry, "group").items():
        if isinstance(group, dict) and _group(name) in (*TEST_GROUPS, *DEV_GROUPS):
            found.tests += _poetry_names(_table(group, "dependencies"))


def _poetry_python(asked: str) -> str:
    """Poetry's `^3.8` and `~3.8` in the standard's words; the standard's own as they are."""
    short = re.fullmatch(r"\s*([\^~])\s*(\d+)(?:\.(\d+))?((?:\.\d+)*)\s*", asked)
    if short is None:
        return asked if asked.strip().startswith((">", "<", "=", "!", "~=")) else ""
    sign, major, minor, rest = short.groups()
    above = f"{major}.{int(minor) + 1}" if sign == "~" and minor else f"{int(major) + 1}"
    return f">={major}.{minor or 0}{rest},<{above}"


def _poetry_names(table: Mapping[str, Any]) -> list[str]:
    return [
        name
        for name, value in table.items()
        if name != "python" and not (isinstance(value, dict) and value.get("optional"))
    ]


def _read_setup_cfg(text: str, found: _Found) -> None:
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        parser.read_string(text)
    except configparser.Error:
        return

    def value(section: str, option: str) -> str:
        return parser.get(section, option, fallback="") or ""

    found.name = found.name or value("metadata", "name").strip()
    found.requires_python = found.requires_python or value("options", "python_requires").strip()
    found.runtime += _lines(value("options", "install_requires"))
    found.tests += _lines(value("options", "tests_require"))
    if parser.has_section("options.extras_require"):
        for name, lines in parser.items("options.extras_require"):
            found.extras.setdefault(_group(name), []).extend(_lines(lines or ""))


def _read_setup_py(text: str, found: _Found) -> None:
    """The literal keywords of `setup(...)`, and of names that are assigned a literal once."""
    tree = parsed(text)
    if tree is None:
        return
    values: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            values[statement.targets[0].id] = _literal(statement.value, values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node.func) == "setup":
            said = {word.arg: _literal(word.value, values) for word in node.keywords if word.arg}
            found.name = found.name or str(said.get("name") or "")
            requires = said.get("python_requires")
            found.requires_python = found.requires_python or str(requires or "")
            found.runtime += _strings(said.get("install_requires"))
            found.tests += _strings(said.get("tests_require"))
            extras = said.get("extras_require")
            for name, lines in extras.items() if isinstance(extras, dict) else ():
                found.extras.setdefault(_group(str(name)), []).extend(_strings(lines))


def _literal(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of a literal, of a known name, of sums and parts of them; None for the rest."""
    if isinstance(node, ast.Name):
        return values.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _literal(node.left, values), _literal(node.right, values)
        if isinstance(left, list) and isinstance(right, list):
            return left + right
        return left if isinstance(left, list) else right if isinstance(right, list) else None
    if isinstance(node, ast.List | ast.Tuple):
        items = (_literal(item, values) for item in node.elts)
        return [item for item in items if item is not None]
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {
            key.value: _literal(value, values)
            for key, value in pairs
            if isinstance(key, ast.Constant)
        }
    if isinstance(node, ast.Subscript):
        table, key = _literal(node.value, values), _literal(node.slice, values)
        return table.get(key) if isinstance(table, dict) and isinstance(key, str) else None
    return node.value if isinstance(node, ast.Constant) else None


def _called(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


def _of_groups(extras: Mapping[str, list[str]], name: str, more: Iterable[str]) -> list[str]:
    """What the test groups hold, and `more` groups; an extra of the project itself stands for its
    lines."""
    asked = [*more]
    for names in (TEST_GROUPS, DEV_GROUPS):
        lines = [line for group in names for line in _own(extras, group, name, frozenset())]
        if lines:
            break
    return [*lines, *(line for group in asked for line in _own(extras, group, name, frozenset()))]


def _own(
    extras: Mapping[str, list[str]], group: str, name: str, above: frozenset[str]
) -> Iterator[str]:
    if group in above:
        return
    for line in extras.get(group, ()):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            yield line
            continue
        if name and canonicalize_name(requirement.name) == canonicalize_name(name):
            for extra in sorted(requirement.extras):
                yield from _own(extras, _group(extra), name, above | {group})
        else:
            yield line


def _lines(text: str) -> list[str]:
    """Requirements one a line; options of pip and comments are none."""
    lines = (line.split(" #")[0].split(" --hash")[0].strip(" \t\\") for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(("#", "-", "git+", "http"))]


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return _lines(value)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _table(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _group(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
