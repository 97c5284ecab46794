"""Puts the gateway together and runs it: socket, signals, background work, shutdown.

Owns what lives as long as the process. The order at the end is what the records depend on: first
the answers under way, then the journal, then the recorder.
"""

import asyncio
import contextlib
import gc
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog
import uvicorn

from twin.backends.http import HttpClient
from twin.backends.secrets import Secret, resolve
from twin.config import Config
from twin.errors import ConfigError, TwinError, UsageError
from twin.serve import logs
from twin.serve.admin import Admin
from twin.serve.app import App
from twin.serve.connection import Connection, look_after
from twin.serve.fleet import Fleet
from twin.serve.gateway import Gateway
from twin.serve.inject import Injector
from twin.serve.keyring import Keyring
from twin.serve.ledger import Ledger
from twin.serve.recording import Recording
from twin.serve.redact import Redactor
from twin.serve.reload import needs_restart
from twin.serve.scribe import Scribe
from twin.serve.side import Side
from twin.serve.telemetry import Tracing, provider_for
from twin.specialists.router import Router
from twin.store.database import Store, journal_folder
from twin.store.journal import Journal
from twin.store.unread import spend_of

log = structlog.get_logger("twin.serve")

KEYS_EVERY_S = 2.0
"""How soon a key that was made or revoked elsewhere counts."""


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to us: it would end the process before the last records are written."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Service:
    """One gateway process."""

    def __init__(
        self, root: Path, load: Callable[[], Config], store: Store, retriever: Sequence[str]
    ) -> None:
        """`load` reads the configuration, now and at each reload. `retriever` is the command that
        finds context, run only when a request wants some."""
        self.root = root
        self.store = store
        self._retriever = retriever
        self._load = load
        self.config = load()

    def run(
        self,
        *,
        host: str | None = None,
        port: int | None = None,
        verbose: bool = False,
        ready: Callable[["Service", str, int], None],
    ) -> None:
        """Serves until SIGINT or SIGTERM. Raises TwinError where it cannot begin; `ready` is told
        the address."""
        host = self.config.serve.host if host is None else host
        port = self.config.serve.port if port is None else port
        self.host = host
        self.requires_keys = self._check_door(self.config)
        with (
            contextlib.closing(_bind(host, port)) as door,
            asyncio.Runner(loop_factory=_loop_factory()) as runner,
        ):
            runner.run(self._main(door, host, verbose, ready))

    def _check_door(self, config: Config) -> bool:
        """Whether keys are needed. Raises ConfigError where they are and there is none."""
        host = self.host
        if _is_loopback(host) and not config.serve.require_keys:
            return False
        if not self.store.keys.active():
            raise ConfigError(
                f"Serving at {host} needs keys, and there is none: anyone who reaches it could "
                "spend your budget. Make one with `twin keys create NAME`, or serve on 127.0.0.1."
            )
        return True

    async def _main(
        self,
        door: socket.socket,
        host: str,
        verbose: bool,
        ready: Callable[["Service", str, int], None],
    ) -> None:
        config = self.config
        _take_all_files()
        folder = journal_folder(self.root)
        self._began_with = config
        self.client = HttpClient(
            max_connections_per_host=config.serve.max_concurrency,
            max_response_bytes=config.serve.max_response_bytes,
        )
        self.fleet = Fleet(config, self.root, self.client)
        ledger = Ledger(config.budget)
        spends = await asyncio.to_thread(spend_of, self.store, folder, ledger.month)
        ledger.begin_with(spends, self.fleet.roles)
        keyring = Keyring()
        keyring.load(self.store.keys.all())
        admin_key = resolve(config.serve.admin_key, self.root) if config.serve.admin_key else None
        redactor = _redactor(config, self.fleet, admin_key)
        scribe = Scribe(Journal(folder), config.record, redactor, _alarm)
        self.gateway = Gateway(
            config=config,
            fleet=self.fleet,
            keyring=keyring,
            ledger=ledger,
            scribe=scribe,
            router=self._router(),
            injector=Injector(self.root, config, self._retriever),
        )
        if config.inject.enabled:
            self.gateway.injector.warm()
        self.gateway.requires_keys = self.requires_keys
        self.gateway.delivery.observers.append(logs.call_logger(verbose=verbose, clean=self._clean))
        tracing = None
        if config.serve.otlp_endpoint:
            provider = provider_for(config.serve.otlp_endpoint)
            clean = self.gateway.scribe.redactor.clean_text
            tracing = Tracing(provider, config.models, clean)
            self.gateway.delivery.observers.append(tracing.observe)
        self.recording = Recording(self.root, config)
        self.gateway.metrics.gauges.append(self._gauges)
        self.admin = Admin(self.gateway, lambda: self.store, self.reload, admin_key, self.root)
        self.side = Side(self.gateway, self._warnings, self.admin.is_admin)
        app = App(self.gateway, self.side, self.admin)
        server = _Uvicorn(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(config.serve.drain_s),
                h11_max_incomplete_event_size=None,
            )
        )
        self._listen_to_signals(server)
        keys = asyncio.create_task(self._keep_keys(self.admin))
        connections = asyncio.create_task(look_after(server.server_state))
        self.recording.start()
        _calm_collector()
        ready(self, host, door.getsockname()[1])
        try:
            await server.serve(sockets=[door])
        finally:
            keys.cancel()
            connections.cancel()
            await self.gateway.injector.close()
            await self.fleet.close()
            await self.client.close()
            scribe.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)
            await self.recording.stop(config.serve.drain_s)

    def _listen_to_signals(self, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()

        def leave(number: signal.Signals) -> None:
            self.side.is_draining = True
            server.handle_exit(number, None)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, leave, number)
        tasks: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = asyncio.create_task(self._reload_and_say())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)

    async def reload(self) -> None:
        """Reads the configuration and its secrets again; calls under way go on with the old ones.
        Raises TwinError, and then nothing has changed. What `needs_restart` names stays as it was
        at the start."""
        config = await asyncio.to_thread(self._load)
        requires_keys = await asyncio.to_thread(self._check_door, config)
        fleet = Fleet(config, self.root, self.client, before=self.fleet)
        admin_key = resolve(config.serve.admin_key, self.root) if config.serve.admin_key else None
        redactor = _redactor(config, fleet, admin_key)
        router = await asyncio.to_thread(self._router)
        self.config, self.fleet = config, fleet
        self.gateway.adopt(config, fleet, router, redactor)
        self.gateway.requires_keys = self.requires_keys = requires_keys
        self.admin.secret = admin_key
        if keys := needs_restart(self._began_with, config):
            log.warning("restart_needed", keys=keys)

    async def _reload_and_say(self) -> None:
        try:
            await self.reload()
        except TwinError as error:
            log.error("reload_refused", why=str(error))
        else:
            log.warning("reloaded", models=list(self.fleet.members))

    def _router(self) -> Router:
        """The router in service: the trained one, or the rules that ship. Raises StoreError where
        its artefact is damaged or from a newer program."""
        live = self.store.registry.live("router")
        if live is None:
            return Router.rules()
        return Router.load(self.store.artifacts.get(live.artifact), live.version_id)

    async def _keep_keys(self, admin: Admin) -> None:
        failed = False
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                await admin.refresh_keys()
                failed = False
            except TwinError as error:
                if not failed:
                    log.warning("keys_not_read", why=str(error))
                failed = True

    def _warnings(self) -> list[str]:
        """What is wrong while calls are answered and recorded in the journal."""
        problem = self.recording.problem
        return [problem] if problem else []

    def _clean(self, text: str) -> str:
        return self.gateway.scribe.redactor.clean_text(text)

    def _gauges(self) -> list[tuple[str, str, dict[str, str], float]]:
        gateway, status = self.gateway, self.recording.status
        plain: list[tuple[str, str, float]] = [
            ("twin_calls_waiting", "Calls in the queue.", gateway.admission.num_waiting),
            ("twin_records_written", "Calls written to the journal.", gateway.scribe.num_written),
            ("twin_records_lost", "Calls served unrecorded.", gateway.scribe.num_lost),
            ("twin_redactions", "Secrets removed.", gateway.scribe.redactor.num_redacted),
            ("twin_journal_bytes", "Not yet in the store.", status.backlog_bytes),
            ("twin_recorder_restarts", "Of the recorder.", self.recording.num_restarts),
            ("twin_recorder_ok", "1 where records reach the store.",
             0.0 if self.recording.problem else 1.0),
        ]  # fmt: skip
        found = [(name, text, dict[str, str](), value) for name, text, value in plain]
        counts = gateway.injector.counts
        for outcome in ("found", "empty", "late", "refused", "failed"):
            number = float(getattr(counts, f"num_{outcome}"))
            found.append(("twin_context_requests", "What became of requests for context.",
                          {"outcome": outcome}, number))  # fmt: skip
        for name, member in gateway.fleet.members.items():
            resting = 1.0 if member.breaker.state == "open" else 0.0
            found.append(("twin_model_resting", "1 while its breaker is open.",
                          {"model": name}, resting))  # fmt: skip
        return found


def _calm_collector() -> None:
    """Keeps the garbage collector from going through all that was loaded at the start, which holds
    every call up for 17 ms each time. What it saves on average is too little to measure."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _take_all_files() -> None:
    """As many open files as the system lets this process have: the usual 1,024 is less than the
    connections of `max_concurrency` and the queue need, towards clients and models."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _alarm(message: str) -> None:
    log.error("recording", message=message)


def _redactor(config: Config, fleet: Fleet, admin_key: Secret | None) -> Redactor:
    secrets = {*fleet.secrets, admin_key.reveal()} if admin_key else fleet.secrets
    return Redactor(config.record.redact, secrets)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ModuleNotFoundError:  # Windows has none
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError where the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"Cannot listen at {host}:{port}: {error.strerror}. Give another address with --host "
            "and --port; `--port 0` takes a free one."
        ) from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
