"""Run with the installed wheel, away from the sources: everything that needs a packaged file."""

import subprocess
import sys
from pathlib import Path

import twin
from twin.config import FitConfig
from twin.gate.report import build_report, render_html
from twin.store.database import open_store

where = Path(twin.__file__)
assert "site-packages" in where.parts, f"not the wheel: {where}"
assert (where.parent / "py.typed").is_file()

report = build_report(
    repository="wheel",
    ranked={},
    verdicts=(),
    in_service="default",
    promoted=False,
    fit=FitConfig(),
    generated_at=0.0,
)
assert "not enough data" in render_html(report)  # the template

lm = where.parent / "lm"
sources = [*lm.glob("kernels/native/*.cpp"), *lm.glob("decode/*.cpp"), *lm.glob("*.html.j2")]
assert len(sources) >= 3, f"sources and templates lack: {sources}"
check = [sys.executable, "-m", "twin.lm.kernels.selfcheck", "--backend", "native", "--op", "wkv6"]
subprocess.run([*check, "--length", "17"], check=True)  # built from the wheel's own sources

repository = Path("repository").absolute()
subprocess.run(["git", "init", "-q", str(repository)], check=True)
open_store(repository).close()  # the migrations
twin_program = Path(sys.executable).with_name("twin")
subprocess.run([twin_program, "--repo", repository, "models", "--json"], check=True)
subprocess.run([twin_program, "--repo", repository, "doctor"], check=True)
print("the wheel works on its own")
