"""Turns a submitted request into a sequence: template, tokens, limits, sampler."""

from __future__ import annotations

import time
from collections.abc import Sequence as Items
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from beastd import ipc
from beastd.contract import Message, Speculative
from beastd.engine.adapters import adapter_set
from beastd.engine.detokenizer import Detokenizer, ThinkingSplitter
from beastd.engine.grammar import Grammar, to_gbnf
from beastd.engine.llama import Llama
from beastd.engine.prompt import PLAIN_TEMPLATE, ChatTemplate, fit, opens_thinking
from beastd.engine.sampler import Sampler
from beastd.engine.sequence import Sequence
from beastd.errors import BadModel, BadRequest, BeastError, ContextExceeded, Unsupported


@dataclass(frozen=True, slots=True)
class _Built:
    """A prompt as tokens."""

    tokens: list[int]
    thinking: ThinkingSplitter | None = None
    """Divides thoughts from the answer, for templates that know them."""
    n_dropped_messages: int = 0
    n_dropped_tokens: int = 0


class Intake:
    """Everything about one base model that a request needs before it can be scheduled."""

    def __init__(self, llama: Llama, template: str | None, *, has_drafter: bool = False) -> None:
        """``has_drafter``: a draft model or heads were loaded."""
        self._llama = llama
        self._has_drafter = has_drafter
        self._breakers: dict[tuple[str, ...], frozenset[int]] = {}
        self.renew(template)

    def renew(self, template: str | None) -> None:
        """Take this chat template, or else the one of the file that is loaded now. Raises ``BadModel``."""
        self.template = self._compile(template or self._llama.template or PLAIN_TEMPLATE, BadModel)

    def sequence(self, submit: ipc.Submit) -> Sequence:
        """The request as a sequence.

        Raises ``BadRequest`` (``ContextExceeded``, ``Unsupported``) or ``BadModel`` when it cannot become one.
        """
        arrived_ns = time.monotonic_ns()
        n_ctx = min(submit.n_ctx or self._llama.n_ctx, self._llama.n_ctx)
        built = self._fitted(submit, n_ctx)
        sampling = submit.sampling
        grammar = self._grammar(submit)
        speculative = self._speculative(submit)
        return Sequence(
            id=submit.id,
            prompt=built.tokens,
            sampler=self._sampler(sampling, built.tokens, grammar),
            grammar=grammar,
            variant=self._llama.load.variant,
            detokenizer=Detokenizer(sampling.stop),
            n_ctx=n_ctx,
            n_predict=sampling.num_predict if sampling.num_predict >= 0 else n_ctx,
            priority=submit.priority,
            client=submit.client,
            weight=submit.weight,
            adapters=adapter_set((adapter.path, adapter.scale) for adapter in submit.adapters),
            ends=frozenset() if sampling.ignore_eos else self._llama.eog,
            thinking=built.thinking,
            top_logprobs=submit.top_logprobs,
            speculative=speculative,
            n_dropped_messages=built.n_dropped_messages,
            n_dropped_tokens=built.n_dropped_tokens,
            arrived_ns=arrived_ns,
        )

    def rehearse(self) -> None:
        """Do once what a first request would be slowed by: render, tokenize, sample and write as for a default chat."""
        prompt = ipc.Prompt(messages=[Message(role="user", content="Hello!")])
        with suppress(BeastError):  # a template of its own mind is no reason not to load
            sequence = self.sequence(ipc.Submit(id=0, prompt=prompt, sampling=ipc.Sampling()))
            logits = np.zeros(self._llama.n_vocab, np.float32)
            sequence.detokenizer.push(self._llama.piece(sequence.sampler.sample(logits, None).token))

    # --- prompt ---

    def _fitted(self, submit: ipc.Submit, n_ctx: int) -> _Built:
        """The prompt, shortened where the request allows it. Raises ``ContextExceeded`` when it does not fit."""
        prompt = submit.prompt
        if unknown := [token for token in prompt.context if not 0 <= token < self._llama.n_vocab]:
            raise BadRequest(
                f"context has token {unknown[0]}, but this model's tokens are 0 to {self._llama.n_vocab - 1}"
            )
        template = self._compile(prompt.template, BadRequest) if prompt.template else self.template
        built = self._build(prompt, template, prompt.messages)
        n_tokens = len(built.tokens)
        if not n_tokens:
            raise BadRequest("the prompt has no tokens; give the model at least one character")
        if n_tokens < n_ctx:
            return built
        if not submit.truncate or not prompt.messages:
            raise ContextExceeded(_too_long(n_tokens, n_ctx, prompt))
        kept, n_dropped = fit(prompt.messages, n_ctx - 1, lambda some: len(self._build(prompt, template, some).tokens))
        built = self._build(prompt, template, kept)
        return replace(built, n_dropped_messages=n_dropped, n_dropped_tokens=n_tokens - len(built.tokens))

    def _build(self, prompt: ipc.Prompt, template: ChatTemplate, messages: Items[Message]) -> _Built:
        if prompt.suffix is not None:
            return _Built(self._fill_in_middle(prompt.raw or "", prompt.suffix))
        if prompt.raw is not None:
            return _Built(prompt.context + self._llama.tokenize(prompt.raw, add_special=not prompt.context))
        text = template.render(messages, think=prompt.think)
        if prompt.context:
            tokens = prompt.context + self._llama.tokenize(text, add_special=False)
        else:
            tokens = self._llama.tokenize_prompt(text)
        splits = template.knows_thinking and prompt.think is not False
        return _Built(tokens, ThinkingSplitter(start_inside=opens_thinking(text)) if splits else None)

    def _fill_in_middle(self, before: str, after: str) -> list[int]:
        marks = self._llama.fill_in_middle
        if marks is None:
            raise Unsupported(
                "this model cannot fill in the middle: its vocabulary has no such tokens; leave suffix out"
            )
        head = self._llama.tokenize(before, add_special=True, parse_special=False)
        tail = self._llama.tokenize(after, add_special=False, parse_special=False)
        return [marks[0], *head, marks[1], *tail, marks[2]]

    def _compile(self, source: str, fault: type[BadModel] | type[BadRequest]) -> ChatTemplate:
        bos, eos = self._llama.text(self._llama.bos), self._llama.text(self._llama.eos)
        return ChatTemplate(source, bos=bos, eos=eos, fault=fault)

    # --- sampling ---

    def _speculative(self, submit: ipc.Submit) -> Speculative:
        """Where drafts may come from; a modelfile or configuration that says draft means models that have a drafter."""
        asked = submit.sampling.speculative
        if asked != "draft" or self._has_drafter:
            return asked
        if not submit.insists_on_drafter:
            return "auto"
        raise Unsupported(
            f"{self._llama.load.label} runs without a draft model or heads that draft: set speculative to draft in "
            f"its modelfile's parameters or in the configuration to load what it has, or leave the option out"
        )

    def _grammar(self, submit: ipc.Submit) -> Grammar | None:
        gbnf = to_gbnf(submit.format) if submit.format is not None else None
        return Grammar(self._llama.vocab, self._llama.n_vocab, gbnf) if gbnf else None

    def _sampler(self, sampling: ipc.Sampling, prompt: list[int], grammar: Grammar | None) -> Sampler:
        return Sampler(
            sampling,
            n_vocab=self._llama.n_vocab,
            logit_bias={self._token(key): value for key, value in sampling.logit_bias.items()},
            breakers=self._breaker_tokens(sampling) if sampling.dry_multiplier else frozenset(),
            eog=self._llama.eog,
            history=prompt,
            grammar=grammar,
        )

    def _token(self, key: str) -> int:
        """A logit_bias key: a token id, or a text that is one token."""
        if key.isdecimal():
            if len(key) < 12 and int(key) < self._llama.n_vocab:
                return int(key)
            raise BadRequest(f"logit_bias: token {key[:20]} is not in the vocabulary of {self._llama.n_vocab} tokens")
        tokens = self._llama.tokenize(key, add_special=False)
        if len(tokens) != 1:
            raise BadRequest(f"logit_bias: {key!r} is {len(tokens)} tokens; a key must be one token or a token id")
        return tokens[0]

    def _breaker_tokens(self, sampling: ipc.Sampling) -> frozenset[int]:
        key = tuple(sampling.dry_sequence_breakers)
        if key not in self._breakers:
            self._breakers = {key: self._llama.tokens_containing(key)}
        return self._breakers[key]


def _too_long(n_tokens: int, n_ctx: int, prompt: ipc.Prompt) -> str:
    drop = ", or set truncate to drop the oldest messages" if prompt.messages else ""
    return (
        f"the prompt has {n_tokens} tokens, but the context holds {n_ctx} with at least one of them for the answer: "
        f"shorten it or ask for a larger num_ctx{drop}"
    )
