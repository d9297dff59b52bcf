"""Draws what the policies spent; needs matplotlib, which Beast does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fleetsim.world import Tally

PARTS = (("loads", "load_s", "#3b6ea5"), ("switches", "switch_s", "#e39b3b"), ("wakes", "wake_s", "#7aa874"))


def draw_plot(found: dict[str, dict[str, Tally]], file: Path) -> None:
    """Trace → policy → what it came to: one panel a trace, one bar a policy. The same bytes each time."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "beast", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(found), figsize=(10, 2.6), sharey=True, sharex=True)
    for panel, (trace, tallies) in zip(panels, found.items(), strict=True):
        _draw_panel(panel, tallies)
        panel.set_title(trace, fontsize=10)
    panels[0].invert_yaxis()
    panels[-1].legend(frameon=False, fontsize=8)
    figure.supxlabel("hours spent on reloading", fontsize=9)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")


def _draw_panel(panel: Any, tallies: dict[str, Tally]) -> None:
    left = [0.0] * len(tallies)
    for label, part, colour in PARTS:
        hours = [getattr(tally, part) / 3600 for tally in tallies.values()]
        panel.barh(list(tallies), hours, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, hours, strict=True)]
    panel.spines[["top", "right"]].set_visible(False)
