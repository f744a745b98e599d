"""Draws docs/data-lakes.svg from the results of the example `lake`:

    (cd examples/lake && cargo run --release -- bench --csv target/lake.csv)
    python3 docs/data_lakes.py examples/lake/target/lake.csv
"""
import csv, pathlib, sys

FORMATS = {"plain": "#b5bcc4", "64 KiB": "#1769aa", "16 KiB": "#7fb2d9"}
PLACES = {"memory": "Tables in memory", "folder": "Tables in a local folder"}
LEFT, BAR, GAP, HEIGHT = 40, 9, 8, 160


def panel(title, rows, top):
    """Returns the parts of one chart: a group of bars for each query, with the format in the order of FORMATS."""
    times = {(row["item"], row["format"]): float(row["milliseconds"]) for row in rows}
    queries = list(dict.fromkeys(item for item, _ in times))
    most = max(times.values())
    bottom = top + 24 + HEIGHT
    parts = [f'<text x="0" y="{top + 12}" class="title">{title}: milliseconds for each query of TPC-H</text>']
    step = next(step for step in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if most / step <= 6)
    for value in range(0, int(most) + 1, step):
        y = bottom - value / most * HEIGHT
        parts.append(f'<path d="M{LEFT} {y:.0f}H{LEFT + len(queries) * (3 * BAR + GAP)}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{value}</text>')
    for index, query in enumerate(queries):
        x = LEFT + GAP / 2 + index * (3 * BAR + GAP)
        for name, color in FORMATS.items():
            height = times[query, name] / most * HEIGHT
            parts.append(f'<rect x="{x:.0f}" y="{bottom - height:.1f}" width="{BAR}" height="{height:.1f}" fill="{color}"/>')
            x += BAR
        parts.append(f'<text x="{x - 1.5 * BAR:.0f}" y="{bottom + 14}" text-anchor="middle">{query}</text>')
    return parts


def chart(rows):
    rows = [row for row in rows if row["item"].startswith("Q")]
    parts, y = [], 0
    for place, title in PLACES.items():
        parts += panel(title, [row for row in rows if row["place"] == place], y)
        y += HEIGHT + 56
    for index, (name, color) in enumerate(FORMATS.items()):
        label = name if name == "plain" else f"encrypted, frames of {name}"
        x = LEFT + index * 200
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{color}"/><text x="{x + 18}" y="{y + 11}">{label}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + 22 * (3 * BAR + GAP) + 10} {y + 20}" role="img">'
    style = "text { font: 11px sans-serif; fill: #222 } .title { font-weight: bold }"
    body = "\n  ".join(parts)
    return f'{head}\n  <title>TPC-H on plain and encrypted tables</title>\n  <style>{style}</style>\n  <rect width="100%" height="100%" fill="#fff"/>\n  {body}\n</svg>\n'


with open(sys.argv[1], newline="") as results:
    picture = chart(list(csv.DictReader(results)))
pathlib.Path(__file__).with_name("data-lakes.svg").write_text(picture)
