"""The verbs whose errors no client can provoke at will, with the rooms below played by the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from beastd import ipc
from beastd.clients import ClientRule
from beastd.config import Config
from beastd.contract import GenerateRequest, Options, Priority
from beastd.errors import BadModel, BeastError, ModelNotFound
from beastd.registry.modelfile import Fields
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


class Answering(Rooms):
    """A registry, pool, lease and worker whose answers are empty."""

    def __init__(self) -> None:
        super().__init__(pins=[], states=[])
        self.submits: list[ipc.Submit] = []
        fields = Fields()
        variant = SimpleNamespace(variant="q8_0")
        model = SimpleNamespace(name=ModelName("cub", "latest"), fields=fields)
        self.resolved = SimpleNamespace(name=variant, model=model, adapters=[])
        self.worker = SimpleNamespace(spec=variant, generate=self._generate)
        self.load_s = 0.0

    def resolve(self, _name: str, _default: str, _adapters: object = ()) -> Any:
        return self.resolved

    def on_described(self, _name: str, *, is_pinned: bool) -> None:
        assert not is_pinned

    async def of(self, _resolved: object, _num_ctx: int | None) -> None:
        return None

    @asynccontextmanager
    async def lease(self, _want: object, _keep_alive_s: float, priority: Priority) -> AsyncIterator[Answering]:
        self.priority = priority
        yield self

    async def waiting(self) -> AsyncIterator[None]:
        for _ in ():
            yield

    async def _generate(self, submit: ipc.Submit) -> AsyncIterator[None]:
        self.submits.append(submit)
        for _ in ():
            yield


@pytest.mark.parametrize(
    ("client", "asked", "place"),
    [
        ("uid:7", None, ("low", "uid:7", 2.0)),
        ("uid:7", "high", ("high", "uid:7", 2.0)),
        ("ip:10.0.0.1", None, ("normal", "ip:10.0.0.1", 1.0)),
        ("", "low", ("low", "", 1.0)),
    ],
)
async def test_a_request_has_the_priority_it_asks_for_or_else_its_clients(
    client: str, asked: Any, place: tuple[str, str, float]
) -> None:
    """And its client's share; a client without a rule is like any other."""
    answering = Answering()
    verbs = Service(
        cast("Any", answering),
        cast("Any", answering),
        Config(clients={"uid:7": ClientRule(weight=2.0, priority="low")}),
        cast("Any", answering),
    )
    answer = verbs.generate(GenerateRequest(prompt="hi", priority=asked), client)
    assert [part async for part in answer] == []
    (submit,) = answering.submits
    assert (submit.priority, submit.client, submit.weight) == place
    assert answering.priority == submit.priority, "for memory it waits by the same"


@pytest.mark.parametrize(("asked", "insists"), [(None, False), ("auto", False), ("draft", True)])
async def test_only_the_request_itself_insists_on_a_drafter(asked: Any, *, insists: bool) -> None:
    """What a configuration says is meant for models that have one."""
    answering = Answering()
    room = cast("Any", answering)
    verbs = Service(room, room, Config(speculative="draft"), room)
    options = Options(speculative=asked) if asked else None
    assert [part async for part in verbs.generate(GenerateRequest(prompt="hi", options=options))] == []
    (submit,) = answering.submits
    assert submit.insists_on_drafter is insists
    assert submit.sampling.speculative == (asked or "draft")
