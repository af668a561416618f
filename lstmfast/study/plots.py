"""Figures by matplotlib: one look for all of them, small enough to be kept in a page."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .data.source import Missing
from .results import Record, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours from the Okabe-Ito palette, which colour-blind readers can tell apart; RNN warm, LSTM cold.
STYLES = {
    ("RNN", "default"): {"color": "#D55E00"},
    ("RNN", "orthogonal"): {"color": "#E69F00", "linestyle": "--"},
    ("RNN", "gain1.5"): {"color": "#CC79A7", "linestyle": ":"},
    ("LSTM", "default"): {"color": "#0072B2"},
    ("LSTM", "orthogonal"): {"color": "#000000", "linestyle": "-."},
    ("LSTM", "forget1"): {"color": "#56B4E9", "linestyle": "--"},
    ("LSTM", "forget3"): {"color": "#56B4E9", "linestyle": ":"},
    ("LSTM", "chrono"): {"color": "#009E73"},
}


@dataclass(frozen=True)
class Plot:
    """draw(results, figure) draws into an empty matplotlib figure of `size` inches."""

    name: str
    caption: str
    draw: Callable[[Results, "Figure"], None]
    size: tuple[float, float] = (6.4, 3.4)


def label(layer: str, init: str) -> str:
    return layer if init == "default" else f"{layer} {init}"


def style(layer: str, init: str) -> dict[str, Any]:
    """Keyword arguments of Axes.plot for a layer, so that it looks the same in all figures."""
    return {"label": label(layer, init), **STYLES.get((layer, init), {})}


def curves(
    axes: "Axes",
    records: Iterable[Record],
    x: str,
    y: str,
    convert: Callable[[float], float] = lambda value: value,
    **looks: Any,
) -> None:
    """A line for each record's learning curve, one of them with the label."""
    for record in records:
        curve = record.figures["curve"]
        axes.plot(curve[x], [convert(value) for value in curve[y]], **{"linewidth": 1.2} | looks)
        looks["label"] = None


def level(axes: "Axes", value: float, name: str, linestyle: str = "--") -> None:
    """A level line with its name: what needs no training."""
    axes.axhline(value, color="gray", linestyle=linestyle, linewidth=1)
    end = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points"}
    axes.annotate(name, (1, value), **end, ha="right", va="bottom", color="gray")


def png(plot: Plot, results: Results) -> bytes:
    """The figure as PNG. Raises Missing without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from PIL import Image
    except ImportError:
        raise Missing("matplotlib is missing: pip install 'lstmfast[study]'") from None
    looks = {
        "font.size": 9,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.fontsize": 8,
        "legend.frameon": False,
    }
    with rc_context(looks):
        figure = Figure(figsize=plot.size, layout="constrained")
        plot.draw(results, figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    # A figure has few colours: a palette makes the file a third of the size.
    small = io.BytesIO()
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()
