"""The table of commands."""

from __future__ import annotations

import inspect

import pytest

from beastctl.main import ALIASES, COMMANDS, load


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_loads_and_says_what_the_table_says(name: str) -> None:
    """A line of the table is true: the command exists, and its own help begins alike."""
    command = load(name)
    assert command.name == name
    first_word = COMMANDS[name].split(maxsplit=1)[0]
    assert inspect.cleandoc(command.help).startswith(first_word)


def test_aliases_lead_to_commands() -> None:
    """None leads nowhere."""
    assert set(ALIASES.values()) <= set(COMMANDS)
