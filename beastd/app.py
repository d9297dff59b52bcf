"""The daemon's life: lock, build the rooms, serve, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from functools import partial
from typing import Any

from aiohttp import web

from beastd import __version__
from beastd.api.routes import make_app
from beastd.cache import Cache
from beastd.config import Config, split_address
from beastd.contract import RAM
from beastd.errors import BadRequest, ConfigError
from beastd.fit.advisor import Advisor
from beastd.fit.ledger import Ledger
from beastd.fleet.footprint import Footprint
from beastd.fleet.memory import total_ram_bytes
from beastd.fleet.pool import Pool, Settings
from beastd.fleet.worker import Limits
from beastd.ipc import KvTiers
from beastd.jobs.jobs import Jobs
from beastd.library.desk import Desk
from beastd.library.library import Library
from beastd.lock import Lock
from beastd.notify import notify_ready, notify_stopping
from beastd.paths import Paths, ensure_dir, ensure_run_dir
from beastd.registry.catalog import load_catalog
from beastd.registry.keeper import Keeper
from beastd.registry.names import parse_name
from beastd.registry.registry import Registry
from beastd.registry.store import Store
from beastd.service import Service
from beastd.wants import Wants

_log = logging.getLogger(__name__)


class Daemon:
    """Composes the rooms and owns the listening sockets."""

    def __init__(self, paths: Paths, config: Config) -> None:
        self._paths = paths
        self._config = config
        self._started_s = time.monotonic()
        self._asked = asyncio.Event()
        """Set when the daemon is to end."""
        self._budget_bytes = config.memory_budget_bytes(total_ram_bytes())
        self._ledger = Ledger(paths.state_dir / "needs.json", paths.logs_dir)
        self._pool = Pool(
            Settings(
                budget=self._budget,
                max_queue=config.queue,
                limits=Limits(config.load_timeout_s, config.hang_timeout_s),
                sleep_after_s=config.sleep_after_s,
                pins=_pins(config.pin),
                tiers=_tiers(paths, config),
            ),
            logs_dir=paths.logs_dir,
            pins_file=paths.state_dir / "pins.json",
        )
        dirs = config.models_dirs(paths.models_dir)
        self._registry = registry = Registry(dirs, paths.state_dir / "facts.json")
        wants = Wants(registry, self._ledger, config, self._budget_bytes, self._pool.loaded)
        self._service = Service(registry, self._pool, config, wants)
        self._jobs = Jobs()
        store = Store(dirs[0])
        self._library = Library(
            Desk(
                registry=registry,
                keeper=Keeper(registry, store, lambda: self._jobs.oldest_s),
                store=store,
                jobs=self._jobs,
                catalog=load_catalog(),
                config=config,
                config_file=paths.config_file,
                logs_dir=paths.logs_dir,
                budget_bytes=self._budget_bytes,
                unload_all=self._service.unload_all,
                unload=partial(self._service.unload, even_pinned=True),  # what is removed cannot stay
                detach=self._pool.detach,
                stop=self._asked.set,
            )
        )
        self._cache = Cache(paths.kv_dir, config.kv_disk_bytes, self._pool, registry)
        self._advisor = Advisor(
            registry,
            self._ledger,
            config,
            budget_bytes=self._budget_bytes,
            store=store.root,
            logs_dir=paths.logs_dir,
            source_of=self._library.source_of,
        )

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. A second signal ends the draining."""
        lock = Lock(self._paths.lock_file)
        lock.acquire()
        app = make_app(self._service, self._library, self._advisor, self._cache, self._health, self._config.origins)
        # Without handler_cancellation a handler never learns that its client left.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=self._config.drain_s, access_log=None)
        await runner.setup()
        try:
            await self._listen(runner)
            notify_ready()
            # Reading a thousand descriptions takes half a second: not while the first client waits for a list.
            background = [
                asyncio.create_task(asyncio.to_thread(self._registry.list)),
                asyncio.create_task(self._pool.watch()),
                asyncio.create_task(self._service.preload(self._config.preload)),
            ]
            await self._signalled()
            notify_stopping(self._config.drain_s)
            for task in background:
                task.cancel()
            _log.info("draining: answers under way have %g s", self._config.drain_s)
        finally:
            await self._jobs.close()  # first: its watchers need no draining, and asking again goes on with the work
            await self._drain(runner)
            await self._pool.close()
            self._registry.save_facts()
            self._paths.socket.unlink(missing_ok=True)
            _log.info("stopped")

    async def _listen(self, runner: web.AppRunner) -> None:
        # We hold the lock, so a socket file that is there belongs to nobody.
        self._paths.socket.unlink(missing_ok=True)
        await web.UnixSite(runner, str(self._paths.socket)).start()
        self._paths.socket.chmod(0o600)
        for address in self._config.tcp:
            host, port = split_address(address)
            try:
                await web.TCPSite(runner, host or None, port).start()
            except OSError as error:
                raise ConfigError(f"cannot listen on {address}: {error.strerror}; choose another address") from error
        _log.info("beastd %s listens on %s", __version__, " ".join([str(self._paths.socket), *self._config.tcp]))

    async def _signalled(self) -> None:
        """Return at the next SIGTERM or SIGINT, or when a verb asks the daemon to end."""
        loop = asyncio.get_running_loop()
        self._asked.clear()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._asked.set)
        await self._asked.wait()

    async def _drain(self, runner: web.AppRunner) -> None:
        """Stop accepting, and wait for the answers under way; a further signal ends the wait."""
        tasks = {asyncio.create_task(runner.cleanup()), asyncio.create_task(self._signalled())}
        _, unfinished = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in unfinished:
            task.cancel()

    def _budget(self) -> Footprint:
        """What all models may take, on each device known by now."""
        gpus = {gpu.name: self._config.gpu_budget_bytes(gpu.total_bytes) for gpu in self._ledger.gpus}
        return Footprint({RAM: self._budget_bytes, **gpus})

    def _health(self) -> dict[str, Any]:
        workers = self._pool.snapshot().workers
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "socket": str(self._paths.socket),
            "tcp": self._config.tcp,
            "models": [str(path) for path in self._config.models_dirs(self._paths.models_dir)],
            "n_workers": len(workers),
            "memory_budget_bytes": self._budget_bytes,
            "memory_used_bytes": sum(worker.n_bytes for worker in workers),
        }


def _pins(names: list[str]) -> frozenset[str]:
    """The configuration's pins as the fleet knows models. Raises ConfigError."""
    try:
        parsed = [parse_name(name) for name in names]
    except BadRequest as error:
        raise ConfigError(f"pin: {error.message}") from error
    return frozenset(name.whole for name in parsed)


def _tiers(paths: Paths, config: Config) -> KvTiers | None:
    """Where KV goes that leaves a worker's cache; None: nowhere."""
    memory_bytes, disk_bytes = config.kv_memory_bytes(total_ram_bytes()), config.kv_disk_bytes
    if not memory_bytes and not disk_bytes:
        return None
    return KvTiers(folder=str(paths.kv_dir), memory_bytes=memory_bytes, disk_bytes=disk_bytes)


def prepare(paths: Paths, config: Config) -> None:
    """Make the folders a daemon writes to, with the right modes. Raises ``ConfigError``."""
    ensure_run_dir(paths.run_dir)
    for path in (
        config.models_dirs(paths.models_dir)[0],
        paths.logs_dir,
        paths.state_dir,
        paths.cache_dir,
        paths.kv_dir,
    ):
        ensure_dir(path)
