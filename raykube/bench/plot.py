"""A report as a picture: throughput and latency over time. Needs matplotlib, which the extra `bench` brings."""

from pathlib import Path
from typing import Any


class NoMatplotlib(Exception):
    """There is no matplotlib."""


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG. Raises NoMatplotlib."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise NoMatplotlib("no picture: pip install 'raykube[bench]' brings matplotlib") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (rates, waits) = pyplot.subplots(2, 1, figsize=(10, 7), sharex=True, layout="constrained")
    offset = 0.0
    for index, step in enumerate(report["steps"]):
        series = step["series"]
        times = [offset + at for at in series["t"]]
        for name, colour in (("created", "tab:blue"), ("bound", "tab:orange"), ("running", "tab:green")):
            rates.plot(times, series[name], color=colour, label=name if index == 0 else None)
        for name, colour in (("p50_ms", "tab:green"), ("p99_ms", "tab:red")):
            waits.plot(times, series[name], color=colour, label=f"{name.removesuffix('_ms')}" if index == 0 else None)
        for axes in (rates, waits):
            axes.axvline(offset, color="lightgray", linewidth=0.8)
        rates.annotate(step["name"], (offset, 1.0), xycoords=("data", "axes fraction"), va="bottom", fontsize=8)
        offset += step["seconds"]
    scale = report["scale"]
    figure.suptitle(f"{report['scenario']}: {scale['pods']:,} pods on {scale['nodes']:,} machines")
    rates.set_ylabel("pods/s")
    waits.set_ylabel("created to running, ms")
    waits.set_xlabel("seconds")
    for axes in (rates, waits):
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
