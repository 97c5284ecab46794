"""What an installed project has that its tree has not: metadata, and files that its build writes.

A tree runs from its own folder, so nothing is installed; but `importlib.metadata` and entry points
need a `.dist-info`, and some projects import a file (`_version.py`) that only the build makes. The
wheel is built once for an environment, in the sandbox, by the project's own backend.
"""

import base64
import binascii
import io
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from twin.coding.sandbox.cell import Sandbox
from twin.coding.sandbox.limits import Job, Limits
from twin.coding.testing.trees import Tree
from twin.observe.requirements import Needs

BUILD: Final = """
import base64, importlib, json, os, sys
told = json.load(os.fdopen(int(os.environ.pop('TWIN_INPUT')), 'rb'))
sys.path[:0] = [os.path.abspath(path) for path in told['path']]
module, _, name = told['backend'].partition(':')
backend = importlib.import_module(module)
for part in filter(None, name.split('.')):
    backend = getattr(backend, part)
os.mkdir('../wheel')
name = backend.build_wheel(os.path.abspath('../wheel'))
data = base64.b64encode(open(os.path.join('../wheel', name), 'rb').read()) + b'\\n'
out = int(os.environ['TWIN_RESULTS'])
while data: data = data[os.write(out, data):]
"""
MAX_FILES: Final = 5_000
MAX_BYTES: Final = 256 << 20
"""Of all files together, unpacked: a small wheel can hold any amount of nothing."""


class BuildFailed(Exception):
    """The project could not be built; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What the build added."""

    beside: Mapping[str, bytes]
    """For a folder behind the tree on the import path: metadata and modules of their own."""
    within: Mapping[str, bytes]
    """Path in the tree -> content: files that belong into a package of the tree."""


class _Line:
    """Hears the one line of a build."""

    def __init__(self) -> None:
        self.wheel = b""

    def hear(self, line: bytes) -> None:
        self.wheel = line

    def deadline(self) -> float:
        return float("inf")


def build(sandbox: Sandbox, tree: Tree, needs: Needs, python: Path, version: str) -> Built:
    """Builds the tree's wheel and says what is in it beyond the tree.

    `version` is what projects that ask git for their version are told. Raises BuildFailed.
    """
    if not needs.backend:
        raise BuildFailed("it does not say how it is built")
    heard = _Line()
    ended = sandbox.run(
        Job(
            command=(str(python), "-c", BUILD),
            tree=tree.archive,
            given=msgspec.json.encode({"backend": needs.backend, "path": needs.backend_path}),
            environment={
                "SETUPTOOLS_SCM_PRETEND_VERSION": version,
                "PBR_VERSION": version,
                "SOURCE_DATE_EPOCH": "1577836800",
            },
            limits=Limits(wall_s=60),
        ),
        heard,
    )
    try:
        whole = zipfile.ZipFile(io.BytesIO(base64.b64decode(heard.wheel, validate=True)))
        if not ended.is_ok:
            raise BuildFailed(_why(ended.detail, ended.output))
        size = sum(entry.file_size for entry in whole.infolist())
        if len(whole.namelist()) > MAX_FILES or size > MAX_BYTES:
            raise BuildFailed(f"its wheel has {len(whole.namelist()):,} files of {size:,} bytes")
        return _beyond(whole, tree.names)
    except (binascii.Error, zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BuildFailed(_why(ended.detail, ended.output)) from error


def _beyond(wheel: zipfile.ZipFile, names: Collection[str]) -> Built:
    beside: dict[str, bytes] = {}
    within: dict[str, bytes] = {}
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for name in wheel.namelist():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name.endswith("/"):
            continue
        places = [f"{root}{name}" for root in ("", "src/", "lib/")]
        if any(place in names for place in places):
            continue
        package = str(path.parent)
        home = next((root for root in ("src/", "lib/", "") if f"{root}{package}" in folders), None)
        if package != "." and home is not None and path.suffix in (".py", ".txt", ".json"):
            within[f"{home}{name}"] = wheel.read(name)
        elif path.parts[0].endswith(".dist-info") or package == ".":
            beside[name] = wheel.read(name)
    return Built(beside=beside, within=within)


def _why(detail: str, output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return detail or (lines[-1].strip()[:300] if lines else "the build said nothing")
