"""The official ollama Python package works unchanged (over TCP, as it is used)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import ollama
import pytest
from harness import RunningDaemon

OPTIONS = {"temperature": 0, "num_predict": 24}
QUESTION = "What is the capital of Italy?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def url(module_port: int, short_home: Path) -> Iterator[str]:
    daemon = RunningDaemon(short_home, ["--tcp", f"127.0.0.1:{module_port}"], {})
    yield f"http://127.0.0.1:{module_port}"
    daemon.stop()


@pytest.fixture
def client(url: str) -> Iterator[ollama.Client]:
    client = ollama.Client(host=url)
    yield client
    client._client.close()


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[ollama.AsyncClient]:
    client = ollama.AsyncClient(host=url)
    yield client
    await client._client.aclose()


def test_list(client: ollama.Client) -> None:
    (cub,) = client.list().models
    assert cub.model == "cub:latest"
    assert cub.size is not None
    assert cub.size > 30_000_000
    assert cub.modified_at is not None
    assert cub.details is not None
    assert cub.details.parameter_size == "31.73M"


def test_show(client: ollama.Client) -> None:
    shown = client.show("cub")
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.capabilities == ["completion"]
    assert shown.template
    assert shown.modelfile


def test_generate(client: ollama.Client) -> None:
    reply = client.generate("cub", QUESTION, options=OPTIONS)
    assert reply.done is True
    assert reply.response is not None
    assert "Rome" in reply.response
    assert reply.context
    assert reply.eval_count
    assert reply.total_duration


def test_generate_streams(client: ollama.Client) -> None:
    parts = list(client.generate("cub", QUESTION, options=OPTIONS, stream=True))
    assert len(parts) > 2
    assert "Rome" in "".join(part.response or "" for part in parts)
    assert parts[-1].done_reason in {"stop", "length"}


def test_chat(client: ollama.Client) -> None:
    reply = client.chat("cub", MESSAGES, options=OPTIONS)
    assert "Rome" in (reply.message.content or "")
    assert reply.message.role == "assistant"


def test_chat_streams(client: ollama.Client) -> None:
    parts = list(client.chat("cub", MESSAGES, options=OPTIONS, stream=True))
    assert "Rome" in "".join(part.message.content or "" for part in parts)
    assert [part.done for part in parts].count(True) == 1


def test_options_class_logprobs_format_and_keep_alive(client: ollama.Client) -> None:
    options = ollama.Options(temperature=0.0, num_predict=8, seed=1, stop=["\n"])
    reply = client.generate("cub", "Hello!", options=options, logprobs=True, top_logprobs=2, keep_alive="1m")
    assert reply.logprobs
    assert reply.logprobs[0].top_logprobs
    assert client.generate("cub", "Say JSON", format="json", options=OPTIONS).done


def test_ps(client: ollama.Client) -> None:
    client.generate("cub", keep_alive=60)
    (running,) = client.ps().models
    assert running.model == "cub:latest"
    assert running.expires_at is not None
    assert running.context_length == 2048
    assert running.size_vram == 0


def test_errors_are_response_errors_with_their_status(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        client.generate("nothing", "Hi")
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="num_keep") as unknown:
        list(client.chat("cub", MESSAGES, options={"num_keep": 4}, stream=True))
    assert unknown.value.status_code == 400


async def test_async_generate_and_list(async_client: ollama.AsyncClient) -> None:
    assert (await async_client.list()).models
    reply = await async_client.generate("cub", QUESTION, options=OPTIONS)
    assert "Rome" in (reply.response or "")


async def test_async_chat_streams(async_client: ollama.AsyncClient) -> None:
    text = ""
    async for part in await async_client.chat("cub", MESSAGES, options=OPTIONS, stream=True):
        text += part.message.content or ""
    assert "Rome" in text


async def test_async_show_and_ps(async_client: ollama.AsyncClient) -> None:
    assert (await async_client.show("cub")).modelinfo
    assert (await async_client.ps()).models
