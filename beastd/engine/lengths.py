"""How long answers will be, learnt from those each client got before. Pure."""

from __future__ import annotations

from beastd.engine.sequence import Sequence

DEFAULT_ANSWER = 256
"""Tokens expected of a client's first answer where the request names no limit below its context."""
LEARNING = 0.2
"""Weight of the latest answer in a client's mean."""
MOST_CLIENTS = 1024
"""Whose means are kept: those that ended an answer last."""


class Lengths:
    """The mean length of each client's answers."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def n_left(self, sequence: Sequence) -> int:
        """Tokens that the sequence's answer is expected to get still; one at least."""
        most = min(sequence.n_predict, sequence.n_ctx - len(sequence.prompt) + sequence.n_carried)
        prior = sequence.n_predict if sequence.n_predict < sequence.n_ctx else DEFAULT_ANSWER
        expected = self._means.get(sequence.client, prior)
        return max(1, round(min(most, expected)) - sequence.n_said)

    def learn(self, sequence: Sequence) -> None:
        """An answer has ended; one that had not begun says nothing."""
        n_said = sequence.n_said
        if not n_said:
            return
        mean = self._means.pop(sequence.client, n_said)
        self._means[sequence.client] = mean + LEARNING * (n_said - mean)
        if len(self._means) > MOST_CLIENTS:
            del self._means[next(iter(self._means))]
