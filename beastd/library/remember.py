"""Write into the configuration where the models folder is, leaving every other line and comment as it is."""

from __future__ import annotations

import json
from pathlib import Path
from stat import S_IMODE
from typing import Any

import yaml

from beastd.config import load_config
from beastd.durable import translated, write_atomically
from beastd.errors import ConfigError
from beastd.yamlfile import YamlError, parse_yaml, read_text

SETTING = "models"
NEW_MODE = 0o600


def remember_folder(config_file: Path, folder: Path, instead_of: Path) -> None:
    """Make ``folder`` the one that models are written to, in place of ``instead_of``; shared folders stay in the list.

    The file is written whole or not at all. Raises ConfigError when it is not understood or cannot be edited in place,
    ReadOnly, DiskFull.
    """
    models = load_config(config_file, {}, {}).models
    is_replaced = bool(models) and Path(models[0]).expanduser() == instead_of
    wanted = [str(folder), *(models[1:] if is_replaced else models)]
    try:
        config_file = config_file.resolve()  # it may be a link into somebody's collection of settings
        text, mode = "", NEW_MODE
        if config_file.exists():
            text, mode = read_text(config_file), S_IMODE(config_file.stat().st_mode)
        config_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise translated(e, f"cannot write {config_file}") from e
    edited = _edited(text, wanted, is_replaced=is_replaced)
    if not _says(edited, {**parse_yaml(text).data, SETTING: wanted}):
        raise ConfigError(
            f"cannot edit {config_file}; write `{SETTING}: {_flow(wanted)}` there yourself, and try again"
        )
    write_atomically(config_file, edited.encode(), mode)


def _edited(text: str, wanted: list[str], *, is_replaced: bool) -> str:
    node = _value_of(SETTING, yaml.compose(text, Loader=yaml.SafeLoader))
    if node is None:
        line_end = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{line_end}{SETTING}: {_flow(wanted)}\n"
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        return text[: node.start_mark.index] + _flow(wanted) + text[node.end_mark.index :]
    first = node.value[0]
    start, end = first.start_mark.index, first.end_mark.index
    if is_replaced:
        return text[:start] + _quoted(wanted[0]) + text[end:]
    bullet = text[text.rfind("\n", 0, start) + 1 : start]
    between = ", " if node.flow_style else f"\n{bullet}"
    return text[:start] + _quoted(wanted[0]) + between + text[start:]


def _value_of(key: str, top: Any) -> yaml.Node | None:
    pairs = top.value if isinstance(top, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _says(text: str, data: dict[str, Any]) -> bool:
    try:
        text.encode()
        return parse_yaml(text).data == data
    except (YamlError, UnicodeEncodeError):
        return False


def _flow(folders: list[str]) -> str:
    return f"[{', '.join(map(_quoted, folders))}]"


def _quoted(text: str) -> str:
    """As YAML: what JSON has in quotes, YAML has too."""
    return json.dumps(text, ensure_ascii=False)
