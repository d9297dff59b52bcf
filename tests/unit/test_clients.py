"""Rules for clients: what names a client, and how a wrong rule is told."""

from __future__ import annotations

import pytest

from beastd.clients import ClientRule, parse_clients
from beastd.config import load_config
from beastd.errors import BadRequest, ConfigError


def test_a_rule_gives_weight_and_priority_and_each_has_a_default() -> None:
    """By user, key or address."""
    rules = parse_clients({"uid:1000": {"weight": 2, "priority": "low"}, "key:0123456789ab": {"priority": "high"}})
    assert rules == {
        "uid:1000": ClientRule(weight=2.0, priority="low"),
        "key:0123456789ab": ClientRule(weight=1.0, priority="high"),
    }


def test_an_address_is_known_in_any_spelling() -> None:
    """As connections have it: the shortest."""
    assert list(parse_clients({"ip:0:0:0:0:0:0:0:1": {}, "ip:10.0.0.7": {}})) == ["ip:::1", "ip:10.0.0.7"]


@pytest.mark.parametrize(
    ("clients", "problem"),
    [
        ("uid:1", "takes a client and its rule a line"),
        ({"root": {}}, "'root' is no client; write uid:<number>"),
        ({"uid:x": {}}, "'uid:x' is no client"),
        ({"key:123": {}}, "'key:123' is no client"),
        ({"ip:1.2.3": {}}, "'ip:1.2.3' is no client"),
        ({"uid:1": 2}, "uid:1 takes weight and priority"),
        ({"uid:1": {"wight": 2}}, r"uid:1 has no setting 'wight' \(did you mean 'weight'\?\)"),
        ({"uid:1": {"weight": 0}}, "uid:1: weight: Expected `float` >= 0.01"),
        ({"uid:1": {"priority": "urgent"}}, "uid:1: priority: 'urgent' is not possible; write high, normal or low"),
    ],
)
def test_a_wrong_rule_is_told_with_its_client(clients: object, problem: str) -> None:
    """And what may be written."""
    with pytest.raises(BadRequest, match=problem):
        parse_clients(clients)


def test_the_configuration_takes_rules_and_says_where_a_wrong_one_is(tmp_path) -> None:
    """As it does for every setting."""
    file = tmp_path / "config.yaml"
    file.write_text("policy: fair\nclients:\n  uid:1000: {weight: 2, priority: low}\n")
    config = load_config(file, {}, {})
    assert (config.policy, config.clients) == ("fair", {"uid:1000": ClientRule(weight=2.0, priority="low")})
    file.write_text("\nclients:\n  me: {}\n")
    with pytest.raises(ConfigError, match=r"config.yaml line 2: clients: 'me' is no client"):
        load_config(file, {}, {})
    with pytest.raises(ConfigError, match="policy: 'lifo' is not possible; write mix, fcfs, sjf, priority or fair"):
        load_config(tmp_path / "none.yaml", {}, {"policy": "lifo"})
