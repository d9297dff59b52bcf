"""The verbs whose errors no client can provoke at will, with the rooms below played by the test."""

from __future__ import annotations

from typing import Any, cast

import pytest

from beastd.config import Config
from beastd.errors import BadModel, BeastError, ModelNotFound
from beastd.registry.names import ModelName
from beastd.service import Service


class Rooms:
    """As much of a registry and of a pool as the verbs ask for."""

    def __init__(self, *, pins: list[str], states: list[str]) -> None:
        self.pins = pins
        self.workers = [cast("Any", Status(id_, state)) for id_, state in enumerate(states)]
        self.unloaded: list[int] = []
        self.error: BeastError = ModelNotFound("gone")

    def resolve(self, _name: str, _default: str, _adapters: object = ()) -> Any:
        raise self.error

    def with_hub_tag(self, asked: ModelName) -> ModelName:
        return asked

    def snapshot(self) -> Rooms:
        return self

    def pin(self, name: str, *, is_pinned: bool) -> None:
        assert not is_pinned
        self.pins.remove(name.lower())

    async def unload(self, id_: int, *, even_pinned: bool) -> bool:
        assert even_pinned
        self.unloaded.append(id_)
        return True


class Status:
    """A worker without answers under way."""

    n_leases = 0

    def __init__(self, id_: int, state: str) -> None:
        self.id = id_
        self.state = state


def service(rooms: Rooms) -> Service:
    return Service(cast("Any", rooms), cast("Any", rooms), Config(), cast("Any", None))


@pytest.mark.parametrize("error", [ModelNotFound("gone"), BadModel("broken")])
async def test_a_model_that_went_after_it_was_pinned_can_be_let_go(error: BeastError) -> None:
    """Else its name would stay pinned for ever."""
    rooms = Rooms(pins=["cub:latest", "ace:7b@q8_0"], states=[])
    rooms.error = error
    assert await service(rooms).pin("Cub", is_pinned=False) == "Cub:latest"
    assert await service(rooms).pin("ace:7b@q8_0", is_pinned=False) == "ace:7b@q8_0"
    assert rooms.pins == []


@pytest.mark.parametrize(("name", "is_pinned"), [("cub", True), ("cbu", False)])
async def test_a_name_that_nothing_has_is_told(name: str, *, is_pinned: bool) -> None:
    """To whom would pin it, and to whom would let go what nobody pinned."""
    rooms = Rooms(pins=["cub:latest"], states=[])
    with pytest.raises(ModelNotFound):
        await service(rooms).pin(name, is_pinned=is_pinned)
    assert rooms.pins == ["cub:latest"]


@pytest.mark.parametrize("state", ["loading", "changing"])
async def test_models_are_unloaded_all_or_none(state: str) -> None:
    """One that changes is no more to be stopped at once than one that loads."""
    rooms = Rooms(pins=[], states=["ready", state])
    assert not await service(rooms).unload_all()
    assert rooms.unloaded == []
    rooms.workers[1].state = "asleep"
    assert await service(rooms).unload_all()
    assert rooms.unloaded == [0, 1]
