"""Prints the tables and draws the chart of docs/performance.md, from the results of criterion.

    python3 benches/report.py [--chart docs/performance.svg] [target/criterion]
"""

import argparse
import json
import pathlib
from html import escape

# In the order of the run. The upper bounds of each group come first.
GROUPS = ["whole", "small", "cached", "branch key", "many", "rewrap", "signed", "streams", "ranges", "files", "header"]
CHARTED = [
    ("whole/AwsLc/4096", "64 MiB in a buffer, frames of 4 KiB"),
    ("whole/AwsLc/65536", "64 MiB in a buffer, frames of 64 KiB"),
    ("signed/AwsLc", "Signed messages of 64 MiB, frames of 64 KiB"),
    ("streams", "Streams of 64 MiB, in pieces of 64 KiB"),
    ("files", "File to file, 512 MiB in memory"),
]
BOUNDS = ("memcpy", "bare", "copy and bare", "plain", "tokio copy")


def measured(folder):
    """Returns a map: group -> [(name, nanoseconds, bytes)]. These are medians, in the order of measurement."""
    groups = {}
    for path in sorted(folder.glob("**/new/benchmark.json"), key=lambda path: path.stat().st_mtime):
        bench = json.loads(path.read_text())
        estimates = json.loads((path.parent / "estimates.json").read_text())
        length = (bench["throughput"] or {}).get("Bytes")
        row = (bench["function_id"], estimates["median"]["point_estimate"], length)
        groups.setdefault(bench["group_id"], []).append(row)
    return dict(sorted(groups.items(), key=lambda item: GROUPS.index(item[0].split("/")[0])))


def duration(nanoseconds):
    for unit, size in (("ms", 1e6), ("µs", 1e3), ("ns", 1)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}" if nanoseconds < 1000 * size else f"{nanoseconds / size:.0f} {unit}"
    return f"{nanoseconds:.3g} ns"


def table(group, rows):
    yield f"### {group}\n"
    yield "| | time | MB/s |"
    yield "|---|---|---|"
    for name, nanoseconds, length in rows:
        rate = f"{length / nanoseconds * 1e3:,.0f}" if length else ""
        yield f"| {name} | {duration(nanoseconds)} | {rate} |"
    yield ""


def chart(groups):
    """Returns an SVG with a bar for each rate. Upper bounds are gray."""
    left, width, height = 150, 560, 18
    parts, y = [], 0
    charted = [(title, groups[group]) for group, title in CHARTED if group in groups]
    most = max(length / time for _, rows in charted for _, time, length in rows)
    for title, rows in charted:
        y += 30
        parts.append(f'<text x="0" y="{y}" class="title">{escape(title)}</text>')
        y += 8
        for name, time, length in rows:
            bar = length / time / most * width
            kind = "bound" if name.startswith(BOUNDS) else "ours"
            middle = y + height - 5
            parts.append(f'<text x="{left - 8}" y="{middle}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{left}" y="{y + 2}" width="{bar:.0f}" height="{height - 4}" class="{kind}"/>')
            parts.append(f'<text x="{left + bar + 6:.0f}" y="{middle}">{length / time:.1f} GB/s</text>')
            y += height
    y += 10
    style = """
  text { font: 12px sans-serif; fill: #222 } .title { font-weight: bold }
  .ours { fill: #1769aa } .bound { fill: #b5bcc4 } svg { background: #fff }"""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {y}" role="img">'
    body = "\n  ".join(parts)
    background = '<rect width="100%" height="100%" fill="#fff"/>'
    return f"{head}\n  <title>Rates of kms-envelope and their upper bounds</title>\n  <style>{style}\n  </style>\n  {background}\n  {body}\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("criterion", nargs="?", type=pathlib.Path, default="target/criterion")
    parser.add_argument("--chart", type=pathlib.Path, help="write the chart to this SVG file")
    arguments = parser.parse_args()
    groups = measured(arguments.criterion)
    if not groups:
        parser.error(f"{arguments.criterion} has no measurements: run `cargo bench -p kms-envelope-benches` first")
    for group, rows in groups.items():
        print("\n".join(table(group, rows)))
    if arguments.chart:
        arguments.chart.write_text(chart(groups))


main()
