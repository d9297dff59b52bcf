"""One HTTP request at a time through huggingface_hub's session, and what its outcome means for the next try."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import get_session
from huggingface_hub.errors import OfflineModeIsEnabled

from beastd.errors import BadRequest, Cancelled, DownloadFailed
from beastd.tool import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from threading import Event

    from beastd.errors import BeastError
    from beastd.tool import Report

MAX_TRIES = 6
"""In a row without a byte; then a download is given up."""
MAX_WAIT_S = 60.0
"""The longest a server's Retry-After is obeyed."""

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Again(Exception):
    """A try that failed for a reason that may pass."""

    def __init__(self, why: str, wait_s: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.wait_s = wait_s
        """How long the server asks to be left alone."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file is, how to ask for it, and what a refusal of the server means."""

    url: str
    headers: dict[str, str]
    refusal: Callable[[httpx2.Response], BeastError]
    is_vouched: bool
    """Whether its digest is known or its server was configured; else the way to it must be safe."""


@dataclass(frozen=True, slots=True)
class Manners:
    """How to deal with servers."""

    stall_s: float
    retry_s: float
    report: Report
    stop: Event
    """Set when the work is over: another part of it has failed."""
    max_tries: int = MAX_TRIES
    """In vain, one after another, before it is given up."""


class Patience:
    """Counts tries in vain, waits between them, and gives up in the end."""

    def __init__(self, item: str, manners: Manners) -> None:
        self._item = item
        self._manners = manners
        self._tries = 0

    def progressed(self) -> None:
        """Bytes came: the count starts anew."""
        self._tries = 0

    def wait(self, again: Again) -> None:
        """After a try in vain. Raises DownloadFailed after the last, Cancelled when the work is over."""
        self._tries += 1
        if self._tries >= self._manners.max_tries:
            raise DownloadFailed(
                f"{again.why}, {self._tries} times in a row; what has come is kept: try again to go on from there"
            ) from again
        wait_s = self._manners.retry_s * 2 ** (self._tries - 1) if again.wait_s is None else again.wait_s
        self._manners.report(Progress(status=f"waiting {wait_s:.0f} s: {again.why}", item=self._item))
        if self._manners.stop.wait(wait_s):
            raise Cancelled("the download was stopped")


@contextmanager
def opened(address: Address, manners: Manners, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    """The answer to a GET: 200, 206 or 416, its body unread.

    Raises Again (also from the body's reader), what ``address.refusal`` makes of other statuses, and BadRequest or
    DownloadFailed for an address nobody should follow.
    """
    sent = {**address.headers, "Accept-Encoding": "identity", **headers}
    host = httpx2.URL(address.url).host
    try:
        with _session().stream("GET", address.url, headers=sent, timeout=manners.stall_s) as response:
            _check_way(address, response)
            _check_status(address, response)
            yield response
    except OfflineModeIsEnabled as e:
        raise DownloadFailed(f"cannot reach {host}: HF_HUB_OFFLINE is set; unset it to download") from e
    except (httpx2.UnsupportedProtocol, httpx2.TooManyRedirects) as e:
        raise DownloadFailed(f"{host} sent us to an address nobody can follow: {_said(e)}") from e
    except httpx2.TimeoutException as e:
        raise Again(f"{host} has sent nothing for {manners.stall_s:.0f} s") from e
    except httpx2.ConnectError as e:
        raise Again(f"cannot reach {host}: {_said(e)}") from e
    except httpx2.HTTPError as e:
        raise Again(f"the connection to {host} was cut ({_said(e)})") from e


def read_all(address: Address, manners: Manners, most_bytes: int) -> bytes:
    """A small answer, whole, tried as often as is decent. Raises as ``opened``, DownloadFailed also for a larger."""
    patience = Patience("", manners)
    while True:
        try:
            with opened(address, manners, {}) as response:
                return _bounded(response, most_bytes)
        except Again as again:
            patience.wait(again)


def checked_url(url: str, is_vouched: bool) -> str:
    """The address, if what comes from it can be believed. Raises BadRequest."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as e:
        raise BadRequest(f"'{url[:200]}' is not an address: {_said(e)}") from e
    if parsed.scheme not in {"https", "http"} or not parsed.host:
        raise BadRequest(f"'{url[:200]}' is not an https address")
    if not _is_safe(parsed) and not is_vouched:
        raise BadRequest(f"anybody on the way could change what comes from {url[:200]}: use https, or give its sha256")
    return url


def _session() -> httpx2.Client:
    """huggingface_hub's session. Raises DownloadFailed for proxy settings it cannot use."""
    try:
        return get_session()
    except (ImportError, ValueError, httpx2.InvalidURL) as e:  # a socks proxy without its library, a bad address
        raise DownloadFailed(f"cannot use the proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY: {_said(e)}") from e


def is_safe_redirect(asked: str, came: str) -> bool:
    """Whether an answer from ``came`` may stand for ``asked``: encrypted, and no outsider's way into this machine."""
    target = httpx2.URL(came)
    return _is_safe(target) and (_is_loopback(httpx2.URL(asked).host) or not _is_loopback(target.host))


def _is_safe(url: httpx2.URL) -> bool:
    return url.scheme == "https" or _is_loopback(url.host)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _check_way(address: Address, response: httpx2.Response) -> None:
    if not address.is_vouched and not is_safe_redirect(address.url, str(response.url)):
        host = httpx2.URL(address.url).host
        raise BadRequest(f"{host} redirects to {str(response.url)[:200]}, which is not safe: give the file's sha256")


def _check_status(address: Address, response: httpx2.Response) -> None:
    status = response.status_code
    if status in {200, 206, 416}:
        return
    if status == 429:
        raise Again(f"{response.url.host} asks us to wait", _retry_after(response))
    if status in _TRY_AGAIN:
        raise Again(f"{response.url.host} answers {status} {response.reason_phrase}", _retry_after(response))
    raise address.refusal(response)


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "").strip()
    return min(MAX_WAIT_S, float(value)) if value.isdecimal() and len(value) < 10 else None


def _bounded(response: httpx2.Response, most_bytes: int) -> bytes:
    found = bytearray()
    for data in response.iter_bytes():
        found += data
        if len(found) > most_bytes:
            raise DownloadFailed(f"{response.url.host} answers with more than {most_bytes} bytes; something is wrong")
    return bytes(found)


def _said(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
