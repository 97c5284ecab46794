"""A project of two commits, and wheels for its tests put together from what is installed."""

import base64
import csv
import hashlib
import importlib.metadata
import io
import zipfile
from pathlib import Path

LEFT_OUT = (".pyc", "RECORD", "INSTALLER", "REQUESTED")
NEEDED = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "calc"
dependencies = ["packaging"]
"""
BACKEND = """
import os, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    version = os.environ["SETUPTOOLS_SCM_PRETEND_VERSION"]
    with zipfile.ZipFile(os.path.join(folder, "calc-1-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("calc/__init__.py", "")
        wheel.writestr("calc/_version.py", f"version = {version!r}")
        wheel.writestr("calc-1.dist-info/METADATA", f"Name: calc\\nVersion: {version}\\n")
    return "calc-1-py3-none-any.whl"
"""
TESTS = """
import importlib.metadata, packaging
from calc import add, _version
def test_version(): assert _version.version == importlib.metadata.version("calc")
def test_sum(): assert add(1, 2) == 3
"""
FIRST = {
    "pyproject.toml": PYPROJECT,
    "backend.py": BACKEND,
    "calc/__init__.py": "def add(a, b): return a - b\n",
    "tests/test_calc.py": TESTS.replace("== 3", "== -1"),
}
SECOND = {"calc/__init__.py": "def add(a, b): return a + b\n", "tests/test_calc.py": TESTS}


def wheel_of(name: str, folder: Path) -> None:
    """The wheel that an installed pure-Python distribution came from, put together again."""
    distribution = importlib.metadata.distribution(name)
    assert distribution.files is not None
    version = distribution.version
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    written: list[tuple[str, str, int]] = []
    with zipfile.ZipFile(path, "w") as wheel:
        for file in distribution.files:
            entry = str(file)
            if entry.startswith("..") or entry.endswith(LEFT_OUT):
                continue
            data = Path(distribution.locate_file(file)).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            wheel.writestr(entry, data)
            written.append((entry, f"sha256={digest}", len(data)))
            if entry.endswith(".dist-info/METADATA"):
                record = entry.replace("METADATA", "RECORD")
        listed = io.StringIO()
        csv.writer(listed).writerows([*written, (record, "", "")])
        wheel.writestr(record, listed.getvalue())
