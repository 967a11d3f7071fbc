"""Builds the documentation: ``python docs/tools/build.py OUT`` writes the site into ``OUT/html``.

1. The pages, the tutorials and what is generated are put together in ``OUT/docs``, never in the checkout.
2. Sphinx makes the site of them; tutorials are executed, and every warning and every error is fatal.
3. Every link within the site is followed.

``PYRODVAE_SMOKE=1`` rehearses the tutorials in seconds; ``PYRODVAE_DOCS_NOTEBOOKS=off`` does not run them.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import check_links
import stage
from sphinx.cmd.build import main as sphinx


def main() -> int:
    """Build, and say where the site is."""
    parser = argparse.ArgumentParser(description="Build the documentation.")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder outside of docs/")
    out = parser.parse_args().out.resolve()
    # Kernels of tutorials inherit these.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MPLBACKEND", "Agg")
    source, html, trees = out / "docs", out / "html", out / "doctrees"
    for old in (html, trees):  # what is left of an earlier build would hide what is missing in this one
        shutil.rmtree(old, ignore_errors=True)
    quiet_kernels(out / "ipython")
    stage.stage(source)
    strict = ["--fail-on-warning", "--keep-going", "--nitpicky"]
    if failed := sphinx(["-q", *strict, "-b", "html", "-d", str(trees), str(source), str(html)]):
        return failed
    if broken := check_links.broken(html):
        print("\n".join(broken), file=sys.stderr)
        return 1
    for line in seconds(trees):
        print(line)
    print(f"Built, and every link within it leads somewhere: {html / 'index.html'}")
    return 0


def quiet_kernels(folder: Path) -> None:
    """Give the tutorials' kernels settings of their own, not those of who builds; and errors, not advice."""
    profile = folder / "profile_default"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 'ERROR'\n")
    os.environ["IPYTHONDIR"] = str(folder)


def seconds(trees: Path) -> Iterator[str]:
    """How long each tutorial ran."""
    environment = pickle.loads((trees / "environment.pickle").read_bytes())
    for page, facts in sorted(environment.nb_metadata.items()):
        if "exec_data" in facts:
            yield f"{facts['exec_data']['runtime']:5.0f} s  {page}"


if __name__ == "__main__":
    sys.exit(main())
