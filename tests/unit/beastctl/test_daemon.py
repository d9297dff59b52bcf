"""What a person is told of a daemon that does not start."""

from __future__ import annotations

from pathlib import Path

from beastctl.daemon import LOG_NAME, _log_bytes, _log_tail
from beastd.paths import Paths


def test_only_the_new_daemon_s_words_are_shown(tmp_path: Path) -> None:
    """What earlier ones wrote would bury the reason; a log that was begun anew is shown from its beginning."""
    paths = Paths.from_env({"BEAST_HOME": str(tmp_path)})
    assert _log_bytes(paths) == 0
    paths.logs_dir.mkdir()
    log = paths.logs_dir / LOG_NAME
    log.write_text("an old error\n")
    n_before = _log_bytes(paths)
    with log.open("a") as file:
        file.write("beastd: a setting is wrong\n")
    assert _log_tail(paths, n_before).endswith("ends with\n  beastd: a setting is wrong")
    log.write_text("anew\n")
    assert _log_tail(paths, n_before).endswith("ends with\n  anew")
