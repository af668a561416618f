"""Records and groups as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .results import Group, Record

_COLUMNS = f"{'shape':22} {'cell':8} {'mode':10} {'thr':>3} {'theirs':>10} {'ours':>10}  {'ratio and quartiles':24}"
HEADER = f"{_COLUMNS} {'GFLOP/s':>8} {'of GEMM':>8} {'of reads':>8}"
HEADER_GPU = f"{HEADER} {'of floor':>8} {'of model':>8} {'expected':>8}  cuDNN"


def line(record: Record) -> str:
    """A point, below HEADER. The last columns are of our side; ~ marks fewer pairs than were asked for."""
    show = size if record["metric"] == "bytes" else duration
    ratio = record["ratio"]
    spread = f"{ratio['median']:7.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}){'~' * record['is_capped']}"
    gemm, reading = record["gemm"], record["reading"]
    rate = f"{gemm['ours_flops_per_second'] / 1e9:8.1f} {gemm['ours_share']:8.0%}" if gemm else f"{'':8} {'':8}"
    share = f"{reading['ours_share']:8.0%}" if reading else ""
    return (
        f"{record['shape']:22} {record['cell']:8} {record['mode']:10} {record['threads']:3} "
        f"{show(record['theirs']['median']):>10} {show(record['ours']['median']):>10}  {spread:24} {rate} {share:8}"
        f"{_gpu(record.get('gpu'))}{label(record)}"
    ).rstrip()


def _gpu(figures: Record | None) -> str:
    """The columns that HEADER_GPU has more; ! marks a ratio far below the expected one."""
    if figures is None:
        return ""
    floor, hoped = figures["floor"], figures["expected_ratio"]
    reached = f"{floor['share']:8.0%}" if floor else f"{'':8}"
    wanted = f"{hoped:7.1f}{'!' if figures['is_short'] else ' '}" if hoped else f"{'':8}"
    return f" {reached} {figures['model']['share']:8.0%} {wanted}  {', '.join(figures['cudnn'] or ())}"


def label(record: Record) -> str:
    """What a record or group is beside the usual, such as "  bfloat16 packed"."""
    usual = {"dtype": "float32", "variant": "plain", "precision": "highest", "callee": "module", "peer": "nn"}
    parts = [record[name] for name, value in usual.items() if record[name] != value]
    return "".join(f"  {part}" for part in [*parts, *["flush_denormal"] * record["flush_denormal"]])


def summary(groups: Iterable[Group]) -> str:
    """A line for each group of several points."""
    lines = []
    for group in groups:
        if group.count == 1:
            continue
        figures = group.as_json()
        what = f"{figures['cell']} {figures['mode']} {figures['threads']} thr{label(figures)}"
        lines.append(
            f"{what:52} {group.restriction:18} {group.count:3} points: geometric mean {group.geometric_mean:6.2f}, "
            f"worst {group.worst:6.2f} at {group.worst_shape}, {group.below_one} below 1"
        )
    return "".join(f"{line}\n" for line in lines)


def cut(points: Sequence[Record]) -> str:
    """How many points were left out, by the part of the schedule that they come first in."""
    parts: dict[str, int] = {}
    for point in points:
        name = point["sweeps"][0] if point["sweeps"] else "points"
        parts[name] = parts.get(name, 0) + 1
    return f"{len(points)} points ({', '.join(f'{name}: {count}' for name, count in parts.items())})"


def duration(seconds: float) -> str:
    unit, scale = ("s", 1.0) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("us", 1e-6)
    return f"{seconds / scale:.3g} {unit}" if seconds < 100 * scale else f"{seconds / scale:.0f} {unit}"


def size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; all columns but the first are set to the right."""
    lines = [header, [":---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
