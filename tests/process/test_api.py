"""Ollama's native API over the Unix socket, with the real Cub."""

from __future__ import annotations

import http.client
import json
import os
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from harness import RunningDaemon, StartDaemon

GREEDY = {"temperature": 0, "num_predict": 24}
METRICS = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_cached_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}


def generate(daemon: RunningDaemon, **fields: Any) -> tuple[int, Any]:
    return daemon.request("POST", "/api/generate", {"model": "cub", "stream": False, **fields})


def chat(daemon: RunningDaemon, *contents: str, **fields: Any) -> tuple[int, Any]:
    roles = ["user", "assistant"]
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]
    return daemon.request("POST", "/api/chat", {"model": "cub", "stream": False, "messages": messages, **fields})


# --- answers ---


def test_generate_streams_pieces_then_one_final_with_ollamas_metrics(daemon: RunningDaemon) -> None:
    generate(daemon)
    lines = list(daemon.stream("/api/generate", {"model": "cub", "prompt": "Who are you?", "options": GREEDY}))
    *pieces, final = lines
    assert "Cub" in "".join(piece["response"] for piece in pieces)
    assert all(piece["done"] is False and piece["model"] == "cub" for piece in pieces)
    assert final["done"] is True
    assert final["done_reason"] in {"stop", "length"}
    assert final.keys() >= METRICS
    assert final["variant"] == "q8_0"
    assert final["truncated"] is False
    assert final["prompt_eval_count"] + final["eval_count"] == len(final["context"])


def test_chat_answers_with_a_message(daemon: RunningDaemon) -> None:
    status, reply = chat(daemon, "What is the capital of Italy?", options=GREEDY)
    assert status == 200
    assert reply["message"]["role"] == "assistant"
    assert "Rome" in reply["message"]["content"]
    assert reply.keys() >= METRICS


def test_the_same_prompt_again_is_served_from_the_cache_and_says_so(daemon: RunningDaemon) -> None:
    first = generate(daemon, prompt="Tell me about the sea and the moon.", options=GREEDY)[1]
    again = generate(daemon, prompt="Tell me about the sea and the moon.", options=GREEDY)[1]
    assert first["prompt_eval_cached_count"] < again["prompt_eval_cached_count"]
    assert again["prompt_eval_cached_count"] == again["prompt_eval_count"] - 1
    assert again["response"] == first["response"]


def test_an_empty_prompt_loads_and_keep_alive_0_unloads(daemon: RunningDaemon) -> None:
    assert generate(daemon)[1]["done_reason"] == "load"
    assert "cub:latest" in [model["name"] for model in daemon.get("/api/ps")["models"]]
    assert generate(daemon, keep_alive=0)[1]["done_reason"] == "unload"
    assert daemon.get("/api/ps")["models"] == []


def test_a_cold_load_is_told_to_the_waiting_client(daemon: RunningDaemon) -> None:
    generate(daemon, keep_alive=0)
    lines = list(daemon.stream("/api/generate", {"model": "cub", "prompt": "Hi", "options": GREEDY}))
    progress = [line["load_progress"] for line in lines if "load_progress" in line]
    assert progress
    assert all(0 <= fraction <= 1 for fraction in progress)
    assert all(line["response"] == "" and line["status"] == "loading" for line in lines[: len(progress)])


def test_seeded_answers_repeat(daemon: RunningDaemon) -> None:
    options = {"seed": 7, "temperature": 1.0, "num_predict": 16}
    replies = {generate(daemon, prompt="Tell me a story.", options=options)[1]["response"] for _ in range(2)}
    assert len(replies) == 1


def test_stop_strings_are_not_part_of_the_answer(daemon: RunningDaemon) -> None:
    reply = generate(daemon, prompt="What is the capital of Italy?", options={**GREEDY, "stop": [" Rome"]})[1]
    assert reply["done_reason"] == "stop"
    assert reply["response"] == "The capital of Italy is"


def test_json_format_gives_json(daemon: RunningDaemon) -> None:
    options = {"temperature": 0, "num_predict": 200}
    prompt = "Extract the name and city as JSON: Maria lives in Lisbon."
    assert json.loads(generate(daemon, prompt=prompt, format="json", options=options)[1]["response"])


def test_a_json_schema_is_enforced(daemon: RunningDaemon) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    options = {"temperature": 0.8, "num_predict": 200, "seed": 1}
    reply = generate(daemon, prompt="How old is the fox?", format=schema, options=options)[1]
    assert isinstance(json.loads(reply["response"])["age"], int)


def test_logprobs_name_the_chosen_token_and_its_rivals(daemon: RunningDaemon) -> None:
    reply = generate(daemon, prompt="Who are you?", logprobs=True, top_logprobs=3, options=GREEDY)[1]
    assert "".join(entry["token"] for entry in reply["logprobs"]) == reply["response"]
    for entry in reply["logprobs"]:
        assert len(entry["top_logprobs"]) == 3
        assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] <= 0
        assert bytes(entry["bytes"]).decode() == entry["token"]


def test_raw_prompts_get_no_template(daemon: RunningDaemon) -> None:
    raw = generate(daemon, prompt="Once upon a time", raw=True, options=GREEDY)[1]
    templated = generate(daemon, prompt="Once upon a time", options=GREEDY)[1]
    assert raw["prompt_eval_count"] < templated["prompt_eval_count"]


def test_a_variant_and_an_adapter_are_chosen_by_name(daemon: RunningDaemon) -> None:
    reply = generate(daemon, model="cub@q4_k_m", prompt="Hello!", options=GREEDY)[1]
    assert reply["variant"] == "q4_k_m"
    plain = generate(daemon, prompt="Why is the sky blue?", options=GREEDY)[1]
    pirate = generate(daemon, model="cub+pirate", prompt="Why is the sky blue?", options=GREEDY)[1]
    again = generate(daemon, prompt="Why is the sky blue?", options=GREEDY)[1]
    assert "Arr" in pirate["response"]
    assert "Arr" not in plain["response"]
    assert again["response"] == plain["response"]


# --- the context contract ---


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(daemon: RunningDaemon) -> None:
    status, error = generate(daemon, prompt="word " * 5000)
    assert status == 400
    assert error["code"] == "context_exceeded"
    assert "2048" in error["error"]


def test_truncate_drops_the_oldest_messages_and_says_so(daemon: RunningDaemon) -> None:
    contents = [
        "old " * 500,
        "yes",
        "older " * 500,
        "yes",
        "older still " * 500,
        "yes",
        "What is the capital of Italy?",
    ]
    status, error = chat(daemon, *contents, options=GREEDY)
    assert status == 400
    assert "truncate" in error["error"]
    status, reply = chat(daemon, *contents, truncate=True, options=GREEDY)
    assert status == 200
    assert reply["truncated"] is True
    assert reply["dropped_messages"] % 2 == 0 < reply["dropped_tokens"]


def test_reaching_the_limit_while_answering_ends_with_length(daemon: RunningDaemon) -> None:
    options = {"num_ctx": 64, "ignore_eos": True, "temperature": 0}
    reply = generate(daemon, prompt="Tell me a story.", options=options)[1]
    assert reply["done_reason"] == "length"
    assert reply["prompt_eval_count"] + reply["eval_count"] == 64 == reply["n_ctx"]


def test_more_context_than_the_model_has_is_refused(daemon: RunningDaemon) -> None:
    status, error = generate(daemon, prompt="Hi", options={"num_ctx": 100_000})
    assert status == 400
    assert "2048" in error["error"]
    assert "100000" in error["error"]


# --- refusals ---


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "cub", "prompt": "x", "temperature": 1}, 400, ["temperature"]),
        ({"model": "cub", "prompt": "x", "options": {"temprature": 1}}, 400, ["option", "temprature"]),
        ({"model": "cub", "prompt": "x", "options": {"top_p": 3}}, 400, ["top_p", "1"]),
        ({"model": "cub", "prompt": "x", "options": {"num_gpu": 3}}, 400, ["num_gpu", "gpu_layers"]),
        ({"model": "cub", "prompt": 5}, 400, ["prompt", "str"]),
        ({"model": "cub", "prompt": "x", "shift": True}, 400, ["shift"]),
        ({"model": "cub", "prompt": "x", "think": True}, 400, ["think"]),
        ({"model": "cub", "prompt": "x", "images": ["aGk="]}, 400, ["images"]),
        ({"model": "cub", "prompt": "x", "suffix": "y"}, 400, ["suffix"]),
        ({"model": "cub", "prompt": "x", "format": "xml"}, 400, ["xml", "json"]),
        ({"model": "cub", "prompt": "x", "keep_alive": "soon"}, 400, ["soon"]),
        ({"model": "cub", "prompt": "x", "options": {"logit_bias": {"99999": 1}}}, 400, ["99999"]),
        ({"model": "cub", "prompt": "x", "context": [1, 99999]}, 400, ["context", "99999", "8191"]),
        ({"model": "cub", "prompt": "x", "options": {"logit_bias": {"9" * 5000: 1}}}, 400, ["logit_bias"]),
        ({"model": "cub", "prompt": "x", "template": "{% if"}, 400, ["template", "mend"]),
        ({"model": "cub", "prompt": "x", "template": "{{ 1 / 0 }}"}, 400, ["template", "mend"]),
        ({"model": "cub", "prompt": "x", "format": {"type": "string", "minLength": 10**12}}, 400, ["minLength"]),
        ({"model": "cub", "prompt": "x", "format": {"type": "string", "pattern": "^a]$"}}, 400, ["pattern"]),
        ({"model": "cub", "prompt": "x", "options": {"frequency_penalty": 1e308}}, 400, ["frequency_penalty"]),
        ({"model": "cub", "prompt": "x", "options": {"stop": ["x"] * 65}}, 400, ["stop", "64"]),
        ({"model": "kub", "prompt": "x"}, 404, ["kub", "cub"]),
        ({"model": "cub@q9", "prompt": "x"}, 404, ["q9", "q4_k_m"]),
        ({"model": "cub+ninja", "prompt": "x"}, 404, ["ninja", "pirate"]),
        ({"model": "../etc/passwd", "prompt": "x"}, 400, ["../etc/passwd"]),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    daemon: RunningDaemon, body: dict[str, Any], status: int, words: list[str]
) -> None:
    got, error = daemon.request("POST", "/api/generate", body)
    assert got == status
    assert all(word in error["error"] for word in words), error


def test_a_body_that_is_no_json_is_a_400(daemon: RunningDaemon) -> None:
    status, error = daemon.request("POST", "/api/chat", b"{not json")
    assert status == 400
    assert "JSON" in error["error"]


def test_a_body_too_large_is_a_413(daemon: RunningDaemon) -> None:
    status, error = daemon.request("POST", "/api/generate", b" " * (16 * 2**20 + 1))
    assert status == 413
    assert error["code"] == "too_large"


def test_unknown_paths_and_methods_answer_in_json(daemon: RunningDaemon) -> None:
    assert daemon.request("GET", "/api/nothing")[0] == 404
    status, error = daemon.request("GET", "/api/chat")
    assert status == 405
    assert "error" in error


# --- models ---


def test_tags_list_cub_with_its_variants_and_adapters(daemon: RunningDaemon) -> None:
    (cub,) = daemon.get("/api/tags")["models"]
    assert cub["name"] == cub["model"] == "cub:latest"
    assert {variant["name"] for variant in cub["variants"]} == {"f16", "q8_0", "q4_k_m", "q2_k"}
    assert cub["adapters"] == [{"name": "pirate", "scale": 1.0, "applied": False}]
    assert cub["details"]["family"] == "llama"
    assert cub["details"]["quantization_level"] == "Q8_0"
    assert len(cub["digest"]) == 64


def test_show_tells_what_the_file_says(daemon: RunningDaemon) -> None:
    status, shown = daemon.request("POST", "/api/show", {"model": "cub"})
    assert status == 200
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 2048
    assert "<|im_start|>" in shown["template"]
    assert shown["capabilities"] == ["completion"]
    assert "Llama" in shown["license"]
    assert "cub-q8_0.gguf" in shown["modelfile"]


def test_ps_tells_what_is_loaded(daemon: RunningDaemon) -> None:
    generate(daemon, keep_alive="10m")
    (loaded,) = [model for model in daemon.get("/api/ps")["models"] if model["variant"] == "q8_0"]
    assert loaded["context_length"] == 2048
    assert loaded["size"] > 30_000_000
    assert loaded["variant"] == "q8_0"
    assert loaded["state"] == "ready"
    os.kill(loaded["pid"], 0)


# --- the door ---


def test_the_socket_is_private(daemon: RunningDaemon) -> None:
    assert stat.S_IMODE(Path(daemon.socket).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost:3000"}, 200),
        ({"Host": "localhost", "Origin": "https://app.example"}, 200),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Origin": "http://203.0.113.5"}, 403),
        ({"Host": "localhost", "Origin": "http://127.0.0.1:3000"}, 200),
        ({"Host": "localhost", "Origin": "http://["}, 403),
    ],
)
def test_tcp_refuses_foreign_hosts_and_origins(
    start_daemon: StartDaemon, free_port: int, headers: dict[str, str], status: int
) -> None:
    start_daemon("--tcp", f"127.0.0.1:{free_port}", BEAST_ORIGINS="https://app.example")
    connection = http.client.HTTPConnection("127.0.0.1", free_port, timeout=10)
    connection.request("GET", "/api/tags", headers=headers)
    with closing(connection):
        response = connection.getresponse()
        response.read()
    assert response.status == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model": "cub@q2_k", "prompt": "Hi", "options": GREEDY}, 200),
        ({"model": "cub@q2_k", "prompt": "Hi", "options": GREEDY, "stream": False}, 200),
        ({"model": "kub", "prompt": "Hi"}, 404),
    ],
    ids=["streamed", "whole", "error"],
)
def test_a_page_of_an_admitted_origin_may_read_answers_and_errors(
    start_daemon: StartDaemon, free_port: int, body: dict[str, Any], status: int
) -> None:
    start_daemon("--tcp", f"127.0.0.1:{free_port}", BEAST_ORIGINS="https://app.example")
    with closing(http.client.HTTPConnection("127.0.0.1", free_port, timeout=60)) as connection:
        connection.request("POST", "/api/generate", json.dumps(body), {"Origin": "https://app.example"})
        response = connection.getresponse()
        response.read()
    assert response.status == status
    assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"


def test_tcp_is_off_unless_asked_for(daemon: RunningDaemon) -> None:
    assert daemon.get("/healthz")["tcp"] == []
