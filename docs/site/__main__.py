"""`python -m docs.site`: write the site to `build/docs`; a warning is an error."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

from docs.site.pages import ROOT, assemble


def main(argv: list[str]) -> int:
    """Assemble the sources and run Sphinx; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.site", description="Write the documentation as HTML.")
    parser.add_argument("--out", type=Path, default=ROOT / "build/docs", help="folder of the site")
    parser.add_argument("--builder", default="html", help="Sphinx's builder: html, or linkcheck for external links")
    parser.add_argument("--no-execute", action="store_true", help="do not run the tutorials")
    arguments = parser.parse_args(argv)
    source = arguments.out / "source"
    shutil.rmtree(source, ignore_errors=True)
    assemble(source)
    os.environ["LIT_FA_DOCS_EXECUTE"] = "off" if arguments.no_execute else "cache"
    options = ["-E", "-W", "--keep-going", "-q", "-b", arguments.builder]
    return build_main([*options, str(source), str(arguments.out / arguments.builder)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
