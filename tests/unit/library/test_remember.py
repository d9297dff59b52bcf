"""Remembering the models folder: one place in the configuration changes, every other byte stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beastd.config import load_config
from beastd.errors import ConfigError
from beastd.library.remember import remember_folder

OLD, NEW = Path("/old/models"), Path("/new/models")

EDITS = {
    "an empty file": ("", 'models: ["/new/models"]\n'),
    "comments alone": ("# mine\n", '# mine\nmodels: ["/new/models"]\n'),
    "no last line end": ("queue: 3 # few", 'queue: 3 # few\nmodels: ["/new/models"]\n'),
    "an empty list": ("models: [] # none\nqueue: 3\n", 'models: ["/new/models"] # none\nqueue: 3\n'),
    "a list in a line": (
        "models: [/old/models, '/shared'] # two\nqueue: 3\n",
        "models: [\"/new/models\", '/shared'] # two\nqueue: 3\n",
    ),
    "a list of lines": (
        "models:\n  # the big disk\n  - /old/models # old\n  - /shared\nqueue: 3\n",
        'models:\n  # the big disk\n  - "/new/models" # old\n  - /shared\nqueue: 3\n',
    ),
    "shared folders in a line": ("models: [ /shared ]\n", 'models: [ "/new/models", /shared ]\n'),
    "shared folders in lines": (
        "queue: 3\nmodels:\n- /shared # all of us\n# end\n",
        'queue: 3\nmodels:\n- "/new/models"\n- /shared # all of us\n# end\n',
    ),
    "a text": ("models: /old/models:/shared # two\n", 'models: ["/new/models", "/shared"] # two\n'),
    "other line ends": ("queue: 3\r\nmodels: [/old/models]\r\n", 'queue: 3\r\nmodels: ["/new/models"]\r\n'),
    "the whole in braces": ("{queue: 3, models: [/old/models]}\n", '{queue: 3, models: ["/new/models"]}\n'),
}


@pytest.mark.parametrize("name", EDITS)
def test_only_the_setting_changes(tmp_path, name):
    """The old folder is replaced; shared ones, comments and other lines stay."""
    file, (before, after) = tmp_path / "config.yaml", EDITS[name]
    file.write_bytes(before.encode())
    remember_folder(file, NEW, OLD)
    assert file.read_bytes().decode() == after
    assert load_config(file, {}, {}).models[0] == str(NEW)


def test_a_configuration_is_made_where_there_is_none(tmp_path):
    """With its folder."""
    file = tmp_path / "beast" / "config.yaml"
    remember_folder(file, NEW, OLD)
    assert load_config(file, {}, {}).models == [str(NEW)]


def test_a_linked_configuration_stays_a_link(tmp_path):
    """And its mode stays."""
    real, file = tmp_path / "dotfiles.yaml", tmp_path / "config.yaml"
    real.write_text("queue: 3\n")
    real.chmod(0o640)
    file.symlink_to(real)
    remember_folder(file, NEW, OLD)
    assert file.is_symlink()
    assert load_config(real, {}, {}).models == [str(NEW)]
    assert real.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["{queue: 3}\n", "queue: 3\n...\n", "queue: nonsense\n", "models: {a: b}\n"])
def test_what_cannot_be_edited_stays_as_it_is(tmp_path, text):
    """The message says what to do by hand, or what is wrong."""
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        remember_folder(file, NEW, OLD)
    assert file.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


FOLDERS = st.text(max_size=20).map(lambda text: f"/{text}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(FOLDERS, max_size=3), FOLDERS, st.booleans())
def test_any_folder_is_remembered_or_refused(tmp_path, shared, folder, is_replaced):
    """Whatever its name has in it: quotes, colons, line ends."""
    file = tmp_path / "config.yaml"
    file.unlink(missing_ok=True)
    try:
        for name in reversed(shared):
            remember_folder(file, Path(name), OLD)
        if is_replaced:
            remember_folder(file, OLD, Path("/nothing"))
        remember_folder(file, Path(folder), OLD)
    except ConfigError:
        return
    assert load_config(file, {}, {}).models == [str(Path(folder)), *(str(Path(it)) for it in shared)]
