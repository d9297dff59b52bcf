"""Settings: where each comes from, which wins, and how a wrong one is told."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.config import Config, load_config, parse_bytes, parse_duration, split_address
from beastd.errors import BadRequest, ConfigError

NO_FILE = Path("/nonexistent/config.yaml")


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "config.yaml"


def test_without_anything_the_defaults_hold():
    """The contract's numbers."""
    config = load_config(NO_FILE, {}, {})
    assert config == Config()
    assert (config.context, config.batch, config.queue, config.parallel) == (4096, 2048, 512, "auto")
    assert (config.keep_alive_s, config.memory_budget_bytes(1000)) == (300.0, 800)


def test_file_is_under_environment_is_under_flags(file):
    """Each later source wins, for its own settings only."""
    file.write_text("context: 1\nthreads: 1\nqueue: 1\n")
    config = load_config(file, {"BEAST_THREADS": "2", "BEAST_QUEUE": "2"}, {"queue": 3})
    assert (config.context, config.threads, config.queue) == (1, 2, 3)


def test_a_flag_of_none_and_an_empty_variable_are_not_given():
    """Command-line parsers pass None for what was not typed."""
    assert load_config(NO_FILE, {"BEAST_CONTEXT": ""}, {"context": None}).context == 4096


def test_variables_of_the_paths_and_of_others_are_left_alone():
    """BEAST_HOME says where, not how."""
    env = {"BEAST_HOME": "/b", "BEAST_SOCKET": "/s", "PATH": "/bin", "BEASTLY": "x"}
    assert load_config(NO_FILE, env, {}) == Config()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("parallel", "auto", "auto"),
        ("parallel", "4", 4),
        ("gpu_layers", "-1", -1),
        ("flash_attn", "on", "on"),
        ("mmap", "false", False),
        ("mmap", "0", False),
        ("drain_s", "2.5", 2.5),
        ("keep_alive", "-1", "-1"),
        ("tcp", "127.0.0.1:1, [::1]:2", ["127.0.0.1:1", "[::1]:2"]),
        ("origins", "http://a", ["http://a"]),
    ],
)
def test_text_of_the_environment_becomes_the_settings_type(name, text, value):
    """Numbers, switches and comma-separated lists."""
    assert getattr(load_config(NO_FILE, {f"BEAST_{name.upper()}": text}, {}), name) == value


def test_words_of_the_file_are_taken_as_written(file):
    """`on` is not YAML's old spelling of true; one address needs no list."""
    file.write_text("flash_attn: on\ntcp: 127.0.0.1:11434\norigins: [http://a, http://b]\nkeep_alive: 60\n")
    config = load_config(file, {}, {})
    assert (config.flash_attn, config.tcp, config.origins) == ("on", ["127.0.0.1:11434"], ["http://a", "http://b"])
    assert config.keep_alive_s == 60


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("kv_layout: partitioned\nsequences: 16\n", "go together: sequences is for a unified cache"),
        ("flash_attn: off\nkv_type: q8_0\n", "go together: kv_type q8_0 needs flash attention"),
    ],
)
def test_settings_that_exclude_each_other_are_told(file, lines, problem):
    """Each is right by itself."""
    file.write_text(lines)
    with pytest.raises(ConfigError, match=problem):
        load_config(file, {}, {})


def test_an_unknown_setting_is_named_with_its_place_and_a_suggestion(file):
    """In the file, the environment and the flags alike."""
    file.write_text("# mine\nthreads: 2\ncontxt: 5\n")
    with pytest.raises(ConfigError, match=r"config.yaml line 3: .*'contxt' \(did you mean 'context'\?\)"):
        load_config(file, {}, {})
    with pytest.raises(ConfigError, match=r"variable BEAST_KEEPALIVE: .*did you mean 'keep_alive'\?"):
        load_config(NO_FILE, {"BEAST_KEEPALIVE": "1"}, {})
    with pytest.raises(ConfigError, match="flag --no-such: there is no setting 'no_such'"):
        load_config(NO_FILE, {}, {"no_such": 1})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("context: 0", "context: Expected `int` >= 1"),
        ("context: many", "context: Expected `int`"),
        ("parallel: 0", "parallel: Expected `int` >= 1"),
        ("parallel: some", "parallel: 'some' is not possible; write a number or auto"),
        ("batch: 512", "batch: Expected `int` >= 1024"),
        ("flash_attn: true", "flash_attn: Expected `str`"),
        ("kv_type: f32", "kv_type: 'f32' is not possible; write f16, q8_0 or q4_0"),
        ("keep_alive: soon", "keep_alive: 'soon' is not a duration"),
        ("keep_alive: null", "keep_alive: Expected `int | float | str`"),
        ("memory_budget: 0", "memory_budget: Expected `int` >= 1"),
        ("memory_budget: 120%", "memory_budget: '120%' is not a share"),
        ("memory_budget: lots", "memory_budget: 'lots' is not a size"),
        ("tcp: '11434'", "tcp: '11434' is not an address"),
        ("load_timeout_s: 0", "load_timeout_s: Expected `float` > 0"),
        ("default_model: ''", "default_model: Expected `str` of length >= 1"),
    ],
)
def test_a_wrong_value_is_told_with_file_line_and_setting(file, line, problem):
    """The message says which line to mend."""
    file.write_text(f"\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file, {}, {})
    assert f"{file} line 2: {problem}" in caught.value.message


def test_a_file_that_is_no_yaml_is_told(file):
    """Broken text and unreadable files are errors of configuration, too."""
    file.write_text("a: 1\nb: [\n")
    with pytest.raises(ConfigError, match="line 3"):
        load_config(file, {}, {})
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(file.parent, {}, {})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("300ms", 0.3),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("2µs", 2e-6),
        ("10ns", 1e-8),
        ("+1m1s", 61),
        ("0", 0),
        ("300", 300),
        ("2.5", 2.5),
        (" 5m ", 300),
        (0, 0),
        (90, 90),
        (0.25, 0.25),
        (-1, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        (-0.5, math.inf),
    ],
)
def test_durations_as_go_writes_them(text, seconds):
    """A bare number is seconds; negative is for ever."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5 m", "5d", "5m3", "1h-5m", "--5m", "nan", "inf", "1e3", "٣s", "5M"])
def test_what_is_no_duration_is_refused(text):
    """The error says what would be one."""
    with pytest.raises(BadRequest, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400, True])
def test_numbers_that_are_no_duration_are_refused(value):
    """JSON and YAML can hold them."""
    with pytest.raises(BadRequest, match="is not a duration"):
        parse_duration(value)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(hours, minutes, seconds, ms):
    """Parts add up in any composition."""
    expected = hours * 3600 + minutes * 60 + seconds + ms / 1000
    assert parse_duration(f"{hours}h{minutes}m{seconds}s{ms}ms") == pytest.approx(expected)


@given(st.text(max_size=12) | st.text("0123456789.hmsnµ+- ", max_size=12))
def test_any_text_is_a_duration_or_a_bad_request(text):
    """Never negative, never NaN, no other exception."""
    with suppress(BadRequest):
        assert parse_duration(text) >= 0


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [(5, 5), ("5", 5), ("12GB", 12 * 10**9), ("8 GiB", 8 * 2**30), ("1.5k", 1500), ("0.5gib", 2**29), ("3b", 3)],
)
def test_sizes(text, n_bytes):
    """Powers of 1000 and of 1024, as units say."""
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1", "1XB", "1 2", "1e9", "80%"])
def test_what_is_no_size_is_refused(text):
    """With examples of what would be right."""
    with pytest.raises(BadRequest, match=r"is not a size; .*12GB"):
        parse_bytes(text)


def test_the_budget_is_a_share_or_bytes():
    """A share is of the machine's RAM, bytes are bytes."""
    assert Config(memory_budget="12.5%").memory_budget_bytes(8000) == 1000
    assert Config(memory_budget="2kb").memory_budget_bytes(8000) == 2000
    assert Config(memory_budget=7).memory_budget_bytes(8000) == 7


def test_kv_tiers_are_sizes_and_can_be_off():
    """Memory may be a share of the machine's; a disk is not."""
    assert Config().kv_memory_bytes(10**12) == 256 * 10**6
    assert Config(kv_memory="5%").kv_memory_bytes(1000) == 50
    assert (Config(kv_memory=0).kv_memory_bytes(1000), Config(kv_disk="0").kv_disk_bytes) == (0, 0)
    assert Config().kv_disk_bytes == 4 * 10**9
    with pytest.raises(ValueError, match="'5%' is not a size"):
        Config(kv_disk="5%")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        (":0", ("", 0)),
        ("host.lan:65535", ("host.lan", 65535)),
    ],
)
def test_addresses(text, address):
    """Host and port, IPv6 in brackets."""
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["", "80", "host", "host:", "host:65536", "host:-1", "::1:80", "host:http"])
def test_what_is_no_address_is_refused(text):
    """A port alone is ambiguous, an IPv6 address needs brackets."""
    with pytest.raises(BadRequest, match="is not an address"):
        split_address(text)
