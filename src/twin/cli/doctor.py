"""`twin doctor`: what is installed, what is missing, and how to get it.

Owns the list of checks. Each looks at the thing itself (loads the library, starts the program),
because "installed" and "works" differ: LightGBM's wheel, for one, needs a system library.
"""

import asyncio
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from twin.backends.factories import PROVIDERS, make_backend
from twin.backends.http import HttpClient
from twin.backends.secrets import resolve
from twin.cli import show
from twin.cli.door import Door, json_option, pass_door
from twin.coding.sandbox import cgroups
from twin.coding.sandbox.cell import fault_of
from twin.coding.sandbox.limits import LEVELS
from twin.config import Config, ModelConfig, load_config
from twin.errors import MissingRequirement, RepositoryError, TwinError
from twin.lm import processor
from twin.observe.environments import uv_program
from twin.store.database import journal_folder
from twin.store.ingest import backlog_bytes

Status = Literal["ok", "missing", "optional"]

MIN_PYTHON = (3, 11)
MIN_GIT = (2, 25)  # Debian 11 and Ubuntu 20.04 have newer; all that is used exists there
MIN_SQLITE = (3, 35)  # the first with RETURNING
MIN_FREE_BYTES = 1_000_000_000
MAX_BACKLOG_BYTES = 100_000_000
"""A recorder that keeps up leaves a fraction of a second's traffic."""
GRAMMARS = ("python", "javascript", "typescript", "go", "rust", "java", "c", "cpp")
LIBRARIES = ("numpy", "scipy", "lightgbm", "sqlalchemy", "alembic", "matplotlib", "Stemmer")
_DISTRIBUTION = {"Stemmer": "pystemmer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. `missing` is required and not there; `optional` is not there either,
    but only what `cure` names needs it."""

    name: str
    status: Status
    found: str
    cure: str = ""


@click.command(name="doctor")
@json_option
@pass_door
def command(door: Door, as_json: bool) -> int:
    """What is installed, what is missing, and how to get it.

    Exit code 3 if something required is missing; what is optional never fails.

    \b
    Example:
      twin doctor
      twin doctor --json
    """
    with show.progress("Looking around", quiet=as_json) as advance:
        checks: list[Check] = []
        for number, check in enumerate(CHECKS, start=1):
            checks.extend(check(door))
            advance(number, len(CHECKS))
    missing = [check.name for check in checks if check.status == "missing"]
    if as_json:
        show.as_json({"healthy": not missing, "checks": checks})
    else:
        rows = [(check.name, check.status, check.found, check.cure) for check in checks]
        note = f"Missing: {', '.join(missing)}." if missing else "Everything required is here."
        show.table("Health", ("what", "status", "found", "how to get it"), rows, note=note)
    return MissingRequirement.exit_code if missing else 0


def _python(door: Door) -> Iterator[Check]:
    found = platform.python_version()
    cure = "" if sys.version_info >= MIN_PYTHON else "Install CPython 3.11 or newer."
    yield Check(name="Python", status=_required(not cure), found=found, cure=cure)


def _git(door: Door) -> Iterator[Check]:
    found = _first_line("git", "--version")
    number = re.search(r"(\d+)\.(\d+)", found)
    enough = number is not None and (int(number[1]), int(number[2])) >= MIN_GIT
    cure = "" if enough else "Install git 2.25 or newer: apt-get install git"
    yield Check(name="git", status=_required(enough), found=found or "not found", cure=cure)


def _sqlite(door: Door) -> Iterator[Check]:
    enough = sqlite3.sqlite_version_info >= MIN_SQLITE
    cure = "" if enough else "Use a Python that is built with SQLite 3.35 or newer."
    yield Check(name="SQLite", status=_required(enough), found=sqlite3.sqlite_version, cure=cure)
    mode = _journal_mode(door)
    works = mode == "wal"
    cure = "" if works else "Keep the repository on a local disk, or set `store.url` to PostgreSQL."
    yield Check(name="SQLite WAL", status=_required(works), found=mode, cure=cure)


def _journal_mode(door: Door) -> str:
    """The journal mode SQLite agrees to where the store is; network file systems refuse WAL."""
    try:
        own = door.root() / ".twin"
    except RepositoryError:
        own = Path()
    with tempfile.TemporaryDirectory(dir=own if _writable(own) else None) as folder:
        connection = sqlite3.connect(Path(folder) / "probe.db")
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.Error as error:
            return str(error)
        finally:
            connection.close()


def _libraries(door: Door) -> Iterator[Check]:
    for name in LIBRARIES:
        yield _library(name, "pip install --force-reinstall cognitive-twin")


def _library(name: str, cure: str) -> Check:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return Check(name=name, status="missing", found=str(error), cure=cure)
    except OSError as error:  # a shared library that the wheel does not bring
        if "libgomp" in str(error):
            cure = "apt-get install libgomp1"
        return Check(name=name, status="missing", found=str(error), cure=cure)
    version = importlib.metadata.version(_DISTRIBUTION.get(name, name))
    return Check(name=name, status="ok", found=version)


def _grammars(door: Door) -> Iterator[Check]:
    broken = []
    for language in GRAMMARS:
        try:
            module = importlib.import_module(f"tree_sitter_{language}")
            tree_sitter = importlib.import_module("tree_sitter")
            names = ("language", "language_typescript")
            make = next(getattr(module, name) for name in names if hasattr(module, name))
            tree_sitter.Parser(tree_sitter.Language(make()))
        except (ImportError, OSError, ValueError, TypeError, StopIteration):
            broken.append(language)
    found = ", ".join(language for language in GRAMMARS if language not in broken) or "none"
    cure = f"Cannot load {', '.join(broken)}: pip install --force-reinstall cognitive-twin"
    yield Check(
        name="tree-sitter grammars",
        status=_required(not broken),
        found=found,
        cure=cure if broken else "",
    )


def _place(door: Door) -> Iterator[Check]:
    """The repository, its disk and its store."""
    try:
        root = door.root()
    except RepositoryError as error:
        yield Check(name="repository", status="optional", found="none here", cure=str(error))
        root = Path.cwd()
    else:
        writable = _writable(root)
        cure = "" if writable else f"Give yourself write permission on {root}."
        yield Check(name="repository", status=_required(writable), found=str(root), cure=cure)
        yield from _store(door, root)
    free = shutil.disk_usage(root).free
    enough = free >= MIN_FREE_BYTES
    cure = "" if enough else f"Free at least {MIN_FREE_BYTES / 1e9:.0f} GB on this disk."
    yield Check(name="free disk", status=_required(enough), found=f"{free / 1e9:.1f} GB", cure=cure)


def _store(door: Door, root: Path) -> Iterator[Check]:
    """Only an existing store is opened: looking must not make one."""
    try:
        url = door.config().store.url
        if not url and not (root / ".twin" / "twin.db").exists():
            yield Check(name="store", status="ok", found="none yet; `twin improve` makes it")
            return
        with door.store() as store:
            yield Check(name="store", status="ok", found=store.place)
    except TwinError as error:
        yield Check(name="store", status="missing", found="does not open", cure=str(error))


def _models(door: Door) -> Iterator[Check]:
    """The configured models: what the gateway needs to start, and whether their servers answer."""
    try:
        home = door.home()
        config = load_config(home, door.config_file)
    except TwinError as error:
        yield _optional("models", "no configuration", str(error))
        return
    if not config.models:
        yield _optional(
            "models",
            "none is configured",
            "`twin serve` answers by script until `[models.NAME]` stands in twin.toml.",
        )
    # Asked all at once: each may take seconds to give up.
    yield from asyncio.run(_ask_all(config, home))
    if config.serve.admin_key:
        yield _secret("admin key", config.serve.admin_key, home)


async def _ask_all(config: Config, home: Path) -> list[Check]:
    client = HttpClient()
    try:
        return await asyncio.gather(
            *(_model(name, model, home, client) for name, model in config.models.items())
        )
    finally:
        await client.close()


async def _model(name: str, model: ModelConfig, home: Path, client: HttpClient) -> Check:
    title = f"model {name}"
    try:
        secrets = [resolve(reference, home) for reference in model.accounts]
        backend = make_backend(name, model, client, home)
    except TwinError as error:
        return Check(name=title, status="missing", found="cannot be asked", cure=str(error))
    where = model.base_url or PROVIDERS[model.provider].base_url
    shown = f"{model.provider} at {_without_password(where)}" if where else model.provider
    try:
        alive = [await backend.is_alive(secret.reveal()) for secret in secrets]
        alive = alive or [await backend.is_alive()]
    finally:
        await backend.close()
    if all(alive):
        return Check(name=title, status="ok", found=f"{shown} answers")
    if any(alive):
        bad = [secret.label for secret, well in zip(secrets, alive, strict=True) if not well]
        return _optional(title, f"{shown} answers", f"It refuses {', '.join(bad)}: mend the key.")
    cure = f"Start that server, or correct [models.{name}]: `base_url` and `accounts`."
    return _optional(title, f"{shown} does not answer", cure)


def _secret(title: str, reference: str, home: Path) -> Check:
    try:
        found = resolve(reference, home)
    except TwinError as error:
        return Check(name=title, status="missing", found="not there", cure=str(error))
    return Check(name=title, status="ok", found=f"from {found.label}")


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def _journal(door: Door) -> Iterator[Check]:
    """What the gateway recorded and the store does not hold yet."""
    try:
        folder = journal_folder(door.home())
    except TwinError:
        return
    if not folder.is_dir():
        return
    waiting = backlog_bytes(folder)
    damaged = len(list(folder.glob("*.damaged")))
    found = f"{waiting / 1e6:.1f} MB not in the store yet"
    if damaged:
        cure = f"{damaged} damaged files were set aside in {folder}; what could be read is stored."
        yield _optional("journal", found, cure)
    elif waiting > MAX_BACKLOG_BYTES:
        yield _optional("journal", found, "`twin serve` moves it; see its log if it does not.")
    else:
        yield Check(name="journal", status="ok", found=found)


def _postgres(door: Door) -> Iterator[Check]:
    driver = _library("psycopg", "pip install 'cognitive-twin[postgres]'")
    if driver.status == "missing":
        yield _optional("PostgreSQL driver", driver.found, driver.cure)
    else:
        yield Check(name="PostgreSQL driver", status="ok", found=f"psycopg {driver.found}")
    server = shutil.which("postgres") or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))), ""
    )
    yield _program("PostgreSQL server", server, "only for the tests: apt-get install postgresql")


def _sandbox(door: Door) -> Iterator[Check]:
    """Every level, each tried with a real command."""
    faults = {level: fault_of(level) for level in LEVELS}
    works = [level for level, fault in faults.items() if fault is None]
    found = "; ".join(f"{level} {fault or 'works'}" for level, fault in faults.items())
    if works[:1] == list(LEVELS[:1]):
        yield Check(name="sandbox", status="ok", found=found)
    else:
        cure = "For `twin harness`: apt-get install bubblewrap, and allow user namespaces"
        yield _optional("sandbox", found, cure)
    groups = cgroups.place()
    limiter = f"cgroup v{groups.version}" if groups else "watching, a look every 50 ms"
    yield Check(name="sandbox limits", status="ok", found=limiter)
    try:
        yield Check(name="uv", status="ok", found=_first_line(uv_program(), "--version"))
    except MissingRequirement as error:
        yield _optional("uv", "not installed", f"For `twin pack` and `twin harness`: {error}")


def _programs(door: Door) -> Iterator[Check]:
    yield _program(
        "universal-ctags",
        _universal_ctags(),
        "only for bench/index.py: apt-get install universal-ctags",
    )


def _torch(door: Door) -> Iterator[Check]:
    """Asked of the metadata: importing torch takes seconds."""
    try:
        yield Check(name="torch", status="ok", found=importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        cure = "Only for `twin pretrain` and `twin lm`: pip install 'cognitive-twin[lm]'"
        yield _optional("torch", "not installed", cure)


def _ray(door: Door) -> Iterator[Check]:
    """Asked of the metadata: importing Ray takes seconds."""
    try:
        yield Check(name="ray", status="ok", found=importlib.metadata.version("ray"))
    except importlib.metadata.PackageNotFoundError:
        cure = "Only for `twin harness ... --ray`: pip install 'cognitive-twin[ray]'"
        yield _optional("ray", "not installed", cure)


def _kernels(door: Door) -> Iterator[Check]:
    """What the language model could run on, judged by what is there, without importing torch;
    `python -m twin.lm.kernels.selfcheck` runs them all and compares them with the reference."""
    if not _installed("torch"):
        return
    named = os.environ.get("CXX", "").partition(" ")[0]
    compiler = next(filter(shutil.which, [named] if named else ["g++", "clang++", "c++"]), "")
    has_gpu = Path("/dev/nvidiactl").exists()
    found = [f"native (built by {compiler})"] if compiler else []
    found += ["chunked", "compiled"]
    for name, package in (("triton", "triton"), ("fla", "flash-linear-attention")):
        if not has_gpu:
            found.append(f"no {name}: no NVIDIA GPU")
        elif not _installed(package):
            found.append(f"no {name}: pip install {package}")
        else:
            found.append(name)
    shown = ", ".join(found)
    if compiler:
        yield Check(name="language model kernels", status="ok", found=shown)
    else:
        cure = "The native ones, several times faster, need a C++ compiler: apt-get install g++"
        yield _optional("language model kernels", shown, cure)


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def _processor(door: Door) -> Iterator[Check]:
    """Facts, not requirements: what fast paths find, the language model's among them."""
    wanted = (
        *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_int8", "amx_bf16"),
    )
    present = [name for name in wanted if name in processor.flags()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{cores} cores, {platform.machine()}; {' '.join(present) or 'no wide vectors'}"
    yield Check(name="processor", status="ok", found=found)


CHECKS: tuple[Callable[[Door], Iterator[Check]], ...] = (
    _python,
    _git,
    _sqlite,
    _libraries,
    _grammars,
    _place,
    _models,
    _journal,
    _postgres,
    _sandbox,
    _programs,
    _ray,
    _torch,
    _kernels,
    _processor,
)


def _required(works: bool) -> Status:
    return "ok" if works else "missing"


def _optional(name: str, found: str, cure: str) -> Check:
    return Check(name=name, status="optional", found=found, cure=cure)


def _program(name: str, path: str, cure: str) -> Check:
    if not path:
        return _optional(name, "not found", cure)
    return Check(name=name, status="ok", found=_first_line(path, "--version") or path)


def _universal_ctags() -> str:
    """Other programs are called ctags too (Emacs brings one)."""
    path = shutil.which("ctags") or ""
    return path if path and "Universal" in _first_line(path, "--version") else ""


def _first_line(*program: str) -> str:
    """The first line a program says, empty where it is absent, silent or hangs."""
    try:
        done = subprocess.run(program, capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace").partition("\n")[0].strip()


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)
