"""Every error Beast tells a client: one tree, each class with its code, HTTP status and retryability.

    BeastError                     500 internal
    ├── BadRequest                 400 bad_request          the request itself is wrong
    │   ├── Unsupported            400 unsupported          right, but this model or Beast cannot do it
    │   ├── ContextExceeded        400 context_exceeded     the prompt does not fit the context
    │   └── TooLarge               413 too_large            the request has more bytes than Beast takes
    ├── Forbidden                  403 forbidden            Host or Origin refused
    ├── AccessDenied               403 access_denied        the hub wants a token, or a licence accepted
    ├── ReadOnly                   403 read_only            the models folder, or a built-in model, cannot be changed
    ├── ModelNotFound              404 model_not_found      no model, variant or adapter of that name
    ├── BadModel                   422 bad_model            the file cannot be used: broken or not understood
    ├── Conflict                   409 conflict             another model or job is in the way
    ├── DoesNotFit                 507 does_not_fit         larger than the whole memory budget
    ├── DiskFull                   507 disk_full            the disk cannot hold it
    ├── DownloadFailed             502 download_failed      the hub or server did not deliver (retry)
    │   └── DigestMismatch         502 digest_mismatch      what came is not what was announced (retry)
    ├── ToolFailed                 500 tool_failed          the process that did the work ended early
    ├── Cancelled                  499 cancelled            somebody cancelled the job
    ├── LoadFailed                 500 load_failed          the worker could not load the model
    │   ├── LoadTimeout            504 load_timeout         it stopped making progress
    │   └── OutOfMemory            507 out_of_memory        the memory it needed could not be had
    ├── CoolingDown                503 cooling_down         its load has just failed; it is not tried again yet (retry)
    ├── WorkerDied                 502 worker_died          the process behind the answer ended (retry)
    ├── EngineFailed               500 engine_failed        llama.cpp could not compute a step (retry)
    ├── Overloaded                 503 overloaded           a queue is full (retry)
    ├── ShuttingDown               503 shutting_down        the daemon is stopping (retry)
    └── ConfigError                500 config               a configuration file, variable or flag is wrong

A message says what happened, to which thing, and what to do next.
"""

from __future__ import annotations


class BeastError(Exception):
    """Base of every error that reaches a client."""

    code = "internal"
    status = 500
    retryable = False
    retry_after_s: float | None = None
    """When asking again makes sense, where that is known."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class BadRequest(BeastError):
    """The request is malformed: an unknown field, a wrong type, a value out of range."""

    code = "bad_request"
    status = 400


class Unsupported(BadRequest):
    """The request is well formed, but this model or this build cannot honour it."""

    code = "unsupported"


class ContextExceeded(BadRequest):
    """The prompt has more tokens than one request may hold."""

    code = "context_exceeded"


class TooLarge(BadRequest):
    """The request has more bytes than are taken."""

    code = "too_large"
    status = 413


class Forbidden(BeastError):
    """The Host or Origin of a TCP request is not one this daemon answers to."""

    code = "forbidden"
    status = 403


class ModelNotFound(BeastError):
    """No model, variant or adapter has this name."""

    code = "model_not_found"
    status = 404


class BadModel(BeastError):
    """A model file or its description is broken or not understood."""

    code = "bad_model"
    status = 422


class AccessDenied(BeastError):
    """The hub lets nobody have this file without a token, or without its licence accepted."""

    code = "access_denied"
    status = 403


class ReadOnly(BeastError):
    """The model, or the folder it is in, is not this user's to change."""

    code = "read_only"
    status = 403


class Conflict(BeastError):
    """Something of that name is there already, or in use."""

    code = "conflict"
    status = 409


class DiskFull(BeastError):
    """There is not room enough on the disk."""

    code = "disk_full"
    status = 507


class DownloadFailed(BeastError):
    """A server did not deliver a file; what came is kept, and the next try goes on from there."""

    code = "download_failed"
    status = 502
    retryable = True


class DigestMismatch(DownloadFailed):
    """The bytes that came do not have the announced sha256; they were thrown away."""

    code = "digest_mismatch"


class ToolFailed(BeastError):
    """The process that did the work ended before it was done."""

    code = "tool_failed"


class Cancelled(BeastError):
    """The job was cancelled; what it had made so far is no model."""

    code = "cancelled"
    status = 499


class DoesNotFit(BeastError):
    """The model needs more memory than the whole budget."""

    code = "does_not_fit"
    status = 507


class LoadFailed(BeastError):
    """The worker could not load the model."""

    code = "load_failed"


class LoadTimeout(LoadFailed):
    """The load made no progress within its limit."""

    code = "load_timeout"
    status = 504


class OutOfMemory(LoadFailed):
    """The memory could not be had, whatever the ledger said: other programs took it, or the estimate was short."""

    code = "out_of_memory"
    status = 507


class CoolingDown(BeastError):
    """The model's load has failed a moment ago, and would most likely fail again."""

    code = "cooling_down"
    status = 503
    retryable = True


class WorkerDied(BeastError):
    """The worker process ended while it held the request."""

    code = "worker_died"
    status = 502
    retryable = True


class EngineFailed(BeastError):
    """llama.cpp failed to compute a step; the worker goes on with other requests."""

    code = "engine_failed"
    retryable = True


class Overloaded(BeastError):
    """A bounded queue is full."""

    code = "overloaded"
    status = 503
    retryable = True
    retry_after_s = 2.0


class ShuttingDown(BeastError):
    """The daemon has stopped taking requests."""

    code = "shutting_down"
    status = 503
    retryable = True


class ConfigError(BeastError):
    """A configuration file, environment variable or flag is wrong."""

    code = "config"


def _tree(cls: type[BeastError]) -> dict[str, type[BeastError]]:
    found = {cls.code: cls}
    for child in cls.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE = _tree(BeastError)
"""Code → class, to rebuild an error that crossed the worker's process border."""


def from_code(code: str, message: str) -> BeastError:
    """The error a worker reported as ``code``; an unknown code becomes the base class."""
    return BY_CODE.get(code, BeastError)(message)
