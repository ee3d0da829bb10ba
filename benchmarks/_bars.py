"""The picture of a record: a bar for each contender and case, on a logarithmic axis."""

from pathlib import Path
from typing import Any

import numpy as np

# Okabe & Ito (2008), and hatches for print without colours
_STYLES = (("#0072B2", ""), ("#E69F00", "//"), ("#009E73", ".."), ("#CC79A7", "xx"))


def draw_bars(record: dict[str, Any], path: Path) -> None:
    """Save the medians, with lines from the least to the most, of all contenders."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rows = record["rows"]
    names = [*dict.fromkeys(name for row in rows for name in row["contenders"])]
    figure = Figure(figsize=(7, 0.9 + 0.2 * (len(names) + 0.8) * len(rows)), layout="constrained")
    ax = figure.add_subplot()
    for i, name in enumerate(names):
        own = [(at, row["contenders"].get(name)) for at, row in enumerate(rows)]
        own = [(at, found) for at, found in own if found]
        quantity = "megabytes" if "megabytes" in own[0][1] else "milliseconds"
        values = [found[quantity] for _, found in own]
        middle = np.array([value["median"] for value in values])
        ends = [middle - [v["min"] for v in values], [v["max"] for v in values] - middle]
        places = np.array([at for at, _ in own]) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
        colour, hatch = _STYLES[i % len(_STYLES)]
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": name}
        ax.barh(places, middle, 0.8 / len(names), xerr=ends, error_kw={"lw": 1}, **style)
        for place, value, (_, found) in zip(places, values, own, strict=True):
            median = value["median"]
            text = f"{median:.3g}" if median < 1000 else f"{median:,.0f}"
            ax.annotate(
                f"{text} ({found['share']:.0%})" if "share" in found else text,
                (value["max"], place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    varied = [a for a in rows[0]["case"] if len({str(row["case"][a]) for row in rows}) > 1]
    labels = [_label(row["case"], varied or ["dtype"]) for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.margins(x=0.12, y=0.02)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(record["unit"])
    ax.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": len(names)}
        ax.legend(frameon=False, fontsize=8, **place)
    figure.savefig(path, dpi=110)


def _label(case: dict[str, Any], axes: list[str]) -> str:
    values = ((axis, case[axis]) for axis in axes if case[axis] != "")
    return ", ".join(v if isinstance(v, str) else f"{axis}={v:,.12g}" for axis, v in values)
