"""What a service runs, for a caller with some environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from beastctl.service import order
from beastctl.service.order import make_order
from beastd.errors import ConfigError


def test_the_caller_s_own_variables_are_kept(tmp_path: Path) -> None:
    """What says where files are or finds the GPU goes along; the rest of a shell's environment does not."""
    env = {
        "BEAST_HOME": str(tmp_path),
        "BEAST_CONTEXT": "8192",
        "CUDA_VISIBLE_DEVICES": "1",
        "EDITOR": "vi",
        "HOME": "/h",
    }
    made = make_order(env, ["drain_s=45"], is_system=False)
    assert made.env == {"BEAST_CONTEXT": "8192", "BEAST_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "1"}
    assert made.command[-1] == "--set=drain_s=45"
    assert Path(made.command[0]).is_absolute()
    assert made.stop_s > 45
    assert made.log == tmp_path / "logs" / "beastd.log"


@pytest.mark.parametrize(
    ("settings", "env", "message"),
    [
        (["colour=green"], {}, "no setting 'colour'"),
        (["drain_s"], {}, "write it as NAME=VALUE"),
        ([], {"BEAST_QUEUE": "many"}, "BEAST_QUEUE"),
    ],
)
def test_a_wrong_setting_is_told_at_once(
    tmp_path: Path, settings: list[str], env: dict[str, str], message: str
) -> None:
    """Not by a service that fails at each boot."""
    with pytest.raises(ConfigError, match=message):
        make_order({"BEAST_HOME": str(tmp_path), **env}, settings, is_system=False)


def test_a_system_service_has_places_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not depend on the home of who installed it."""
    monkeypatch.setattr(order.sys, "platform", "linux")  # type: ignore[attr-defined]
    made = make_order({"XDG_DATA_HOME": "/home/me/data"}, [], is_system=True, user="root")
    assert made.env == {"BEAST_HOME": order.SYSTEM_HOME, "BEAST_SOCKET": order.SYSTEM_SOCKET}
    assert made.user == "root"


@pytest.mark.parametrize("who", ["user", "group"])
def test_nobody_s_name_is_refused(who: str) -> None:
    """With the command that would make one."""
    with pytest.raises(ConfigError, match=f"no {who} 'no-such-name'; `{who}add"):
        make_order({}, [], is_system=True, **{"user": "root", who: "no-such-name"})  # type: ignore[arg-type]
