"""beastd: the daemon's command line. `beast serve` and the CLI's automatic start run this."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from beastd import __version__
from beastd.errors import BeastError


def main() -> None:
    """Serve in the foreground until a signal; errors of configuration are one line and exit status 2."""
    arguments = _parser().parse_args()
    try:
        _serve(arguments)
    except BeastError as error:
        sys.stderr.write(f"beastd: {error.message}\n")
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="beastd", description="Beast's daemon: serves models on a Unix socket.")
    parser.add_argument("--version", action="version", version=f"beastd {__version__}")
    parser.add_argument("--tcp", action="append", metavar="HOST:PORT", help="also listen here (off by default)")
    parser.add_argument("--background", action="store_true", help="log to a file instead of stderr")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any setting of config.yaml, for this run",
    )
    return parser


def _serve(arguments: argparse.Namespace) -> None:
    from beastd.app import Daemon, prepare
    from beastd.config import load_config
    from beastd.log import setup_logging
    from beastd.paths import Paths

    paths = Paths.from_env(os.environ)
    flags = dict(_pair(text) for text in arguments.set)
    config = load_config(paths.config_file, os.environ, flags | {"tcp": arguments.tcp})
    prepare(paths, config)
    setup_logging(paths.logs_dir / "beastd.log" if arguments.background else None)
    asyncio.run(Daemon(paths, config).run())


def _pair(text: str) -> tuple[str, str]:
    from beastd.errors import ConfigError

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: write it as NAME=VALUE")
    return name, value


if __name__ == "__main__":
    main()
