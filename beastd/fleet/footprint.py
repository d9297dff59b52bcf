"""Bytes by device: what a worker takes, what there is, what is left."""

from __future__ import annotations

from collections.abc import Mapping

from beastd.contract import RAM


class Footprint(dict[str, int]):
    """Device ("RAM", "CUDA0") → bytes; a device that is not named has none. A value: nobody changes one."""

    def __hash__(self) -> int:  # type: ignore[override]  # nobody changes one
        return hash(frozenset(self.items()))

    def __add__(self, other: Mapping[str, int]) -> Footprint:
        """Both together."""
        return Footprint({device: self.get(device, 0) + other.get(device, 0) for device in {**self, **other}})

    def __sub__(self, other: Mapping[str, int]) -> Footprint:
        """What is left of this without the other; may be negative."""
        return Footprint({device: self.get(device, 0) - other.get(device, 0) for device in {**self, **other}})

    def or_more(self, other: Mapping[str, int]) -> Footprint:
        """The larger of both on each device."""
        return Footprint({device: max(self.get(device, 0), other.get(device, 0)) for device in {**self, **other}})

    def or_less(self, other: Mapping[str, int]) -> Footprint:
        """The smaller of both on each device."""
        return Footprint({device: min(self.get(device, 0), other.get(device, 0)) for device in {**self, **other}})

    def fits_in(self, room: Mapping[str, int]) -> bool:
        """Whether there is enough of every device."""
        return (self - room).is_covered

    @property
    def is_covered(self) -> bool:
        """What was short is there: nothing of any device is left."""
        return all(n <= 0 for n in self.values())

    def times(self, factor: float) -> Footprint:
        """So many of it."""
        return Footprint({device: round(n * factor) for device, n in self.items()})

    def helps(self, short: Mapping[str, int]) -> bool:
        """Whether it has something of a device of which ``short`` lacks some."""
        return any(self.get(device, 0) > 0 for device, n in short.items() if n > 0)

    @property
    def total_bytes(self) -> int:
        """All devices together."""
        return sum(self.values())

    def __str__(self) -> str:
        """As messages show it: "1.20 GB", or by device where there are GPUs."""
        parts = {device: f"{n / 1e9:.2f} GB" for device, n in self.items() if n > 0 or device == RAM}
        if set(parts) <= {RAM}:
            return parts.get(RAM, "0.00 GB")
        return " and ".join(f"{text} of {device}" for device, text in parts.items())


def ram(n_bytes: int) -> Footprint:
    """So much main memory and nothing else."""
    return Footprint({RAM: n_bytes})
