"""What is measured: the mock alone, this gateway, its peers; how each is installed and started.

Each peer is the release named here, from the registries, in an environment of its own, configured
for speed as its own documentation says: logs at errors only, no database, no observability. This
gateway runs on its defaults, recording on.
"""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway_load.processes import Process, free_port, listens, until

LITELLM = "1.106.2"
TENSORZERO = "2026.6.0"
PORTKEY = "1.15.2"
# Portkey asks for ^1.3.3; from 1.19 on, its streams end in HTTP 500 ("immutable" headers).
HONO_NODE_SERVER = "1.13.7"
KEY = "sk-bench"
START_S = 120.0


@dataclass(slots=True, kw_only=True)
class Target:
    """A running gateway, or the mock itself."""

    name: str
    version: str
    port: int
    process: Process | None = None
    path: str = "/v1/chat/completions"
    model: str = "mock"
    headers: tuple[str, ...] = ()
    root: Path | None = None
    """Where it keeps its store; only for this gateway."""
    answers: int = field(default=0)
    """Whole answers since it was started."""


Start = Callable[[Path, Path, int, int], Target]
"""(folder of the peers, own new folder, the mock's port, the core to run on) -> running target"""


def _ready(target: Target, log: str = "") -> Target:
    process = target.process
    assert process is not None
    if not until(lambda: listens(target.port) or not process.is_running, START_S):
        process.stop()
    if not process.is_running:
        raise RuntimeError(f"{target.name} did not start: {process.said()[-800:] or log}")
    return target


def twin(_: Path, folder: Path, mock: int, core: int) -> Target:
    from importlib.metadata import version

    port, config = free_port(), folder / "twin.toml"
    config.write_text(
        f'[models.mock]\nprovider = "vllm"\nbase_url = "http://127.0.0.1:{mock}/v1"\n'
    )
    command = [str(Path(sys.executable).with_name("twin")), "--config", str(config), "serve"]
    command += ["--port", str(port)]
    process = Process(command, cores=[core], log=folder / "log", folder=folder)
    return _ready(
        Target(
            name="twin",
            version=version("cognitive-twin"),
            port=port,
            process=process,
            root=folder,
        )
    )


def litellm(peers: Path, folder: Path, mock: int, core: int) -> Target:
    port, config = free_port(), folder / "config.yaml"
    config.write_text(
        f"""\
model_list:
  - model_name: mock
    litellm_params:
      model: openai/mock
      api_base: http://127.0.0.1:{mock}/v1
      api_key: sk-none
general_settings:
  master_key: {KEY}
"""
    )
    command = [str(peers / "litellm/bin/litellm"), "--config", str(config), "--num_workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
    }
    process = Process(command, cores=[core], log=folder / "log", folder=folder, env=env)
    headers = (f"authorization: Bearer {KEY}",)
    return _ready(
        Target(name="litellm", version=LITELLM, port=port, process=process, headers=headers)
    )


TENSORZERO_SERVER = """\
import sys, time
from tensorzero import _start_http_gateway
gateway = _start_http_gateway(
    config_file=sys.argv[1],
    clickhouse_url=None,
    postgres_url=None,
    valkey_url=None,
    async_setup=False,
)
print("listens on", gateway.base_url, flush=True)
while True:
    time.sleep(3600)
"""


def tensorzero(peers: Path, folder: Path, mock: int, core: int) -> Target:
    """The gateway that its Python package embeds, with the HTTP server it gives OpenAI clients."""
    config, server = folder / "tensorzero.toml", folder / "server.py"
    config.write_text(
        f"""\
[gateway]
observability.enabled = false

[models.mock]
routing = ["mock"]

[models.mock.providers.mock]
type = "vllm"
model_name = "mock"
api_base = "http://127.0.0.1:{mock}/v1"
api_key_location = "none"
"""
    )
    server.write_text(TENSORZERO_SERVER)
    command = [str(peers / "tensorzero/bin/python"), str(server), str(config)]
    process = Process(command, cores=[core], log=folder / "log", folder=folder)

    def port() -> int:
        found = re.search(r"listens on http://[^:]+:(\d+)", process.said())
        return int(found[1]) if found else 0

    until(lambda: bool(port()) or not process.is_running, START_S)
    return _ready(
        Target(
            name="tensorzero",
            version=TENSORZERO,
            port=port(),
            process=process,
            path="/openai/v1/chat/completions",
            model="tensorzero::model_name::mock",
        )
    )


def portkey(peers: Path, folder: Path, mock: int, core: int) -> Target:
    port = free_port()
    package = peers / "portkey/node_modules/@portkey-ai/gateway"
    command = ["node", str(package / "build/start-server.js"), f"--port={port}", "--headless"]
    process = Process(command, cores=[core], log=folder / "log", folder=folder)
    headers = (
        f"authorization: Bearer {KEY}",
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: http://127.0.0.1:{mock}/v1",
    )
    return _ready(
        Target(name="portkey", version=PORTKEY, port=port, process=process, headers=headers)
    )


def direct(_: Path, __: Path, mock: int, ___: int) -> Target:
    return Target(name="direct", version="", port=mock)


TARGETS: dict[str, Start] = {
    "direct": direct,
    "twin": twin,
    "tensorzero": tensorzero,
    "portkey": portkey,
    "litellm": litellm,
}


def install(peers: Path) -> None:
    """Every peer into a folder of its own under `peers`; about a gigabyte."""
    for name, package in (
        ("litellm", f"litellm[proxy]=={LITELLM}"),
        ("tensorzero", f"tensorzero=={TENSORZERO}"),
    ):
        folder = peers / name
        print(f"{package} -> {folder}", flush=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", package])
    folder = peers / "portkey"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"@portkey-ai/gateway {PORTKEY} -> {folder}", flush=True)
    wanted = {
        "private": True,
        "dependencies": {"@portkey-ai/gateway": PORTKEY},
        "overrides": {"@hono/node-server": HONO_NODE_SERVER},
    }
    (folder / "package.json").write_text(json.dumps(wanted))
    _run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], folder)


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode:
        print(f"  failed: {' '.join(command)}", file=sys.stderr, flush=True)


def is_installed(name: str, peers: Path) -> bool:
    marks = {
        "litellm": peers / "litellm/bin/litellm",
        "tensorzero": peers / "tensorzero/lib",
        "portkey": peers / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js",
    }
    return name not in marks or marks[name].exists()


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def folder_mb(folder: Path) -> float:
    sizes = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                sizes += os.stat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return sizes / 1e6
