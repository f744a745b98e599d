"""Draws envelope.svg from envelope.dot, and writes the pictures of the guide into src/guide/images.md, because rustdoc
does not copy files. Needs Graphviz. With --check, only compares images.md with the pictures."""
import pathlib, subprocess, sys, urllib.parse

DOCS = pathlib.Path(__file__).resolve().parent
IMAGES = DOCS.parent / "src" / "guide" / "images.md"


def definition(path):
    """A Markdown link definition that holds the picture."""
    svg = path.read_text()
    svg = " ".join(svg[svg.index("<svg") :].split()).replace('"', "'")
    return f"[{path.name}]: <data:image/svg+xml,{urllib.parse.quote(svg, safe=' =:/,;()')}>\n"


def images():
    return "".join(definition(DOCS / name) for name in ("envelope.svg", "performance.svg", "data-lakes.svg"))


if sys.argv[1:] == ["--check"]:
    if IMAGES.read_text() != images():
        sys.exit("src/guide/images.md is not up to date: run python3 docs/images.py")
else:
    subprocess.run(["dot", "-Tsvg", "envelope.dot", "-o", "envelope.svg"], cwd=DOCS, check=True)
    IMAGES.write_text(images())
