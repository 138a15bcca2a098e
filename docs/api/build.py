"""Write the reference of functions as HTML, from docstrings: ``make docs``.

``build.py OUT [MODULE...]``. A warning of pdoc's is an error: a name that is not there, a type that
cannot be read.
"""

import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

import not_core

MODULES = (
    "not_core",  # whose __all__ keeps pdoc from its rooms, which follow
    "not_core.errors",
    "not_core.manifest",
    "not_core.protocol",
    "not_core.trust",
    "not_core.surgery",
    "not_core.privacy",
    "not_core.learning",
    "client",
    "server",
    "!server.migrations",
    "simulations",
)


def build(out: Path, modules: tuple[str, ...]) -> None:
    """Write a folder of pages, ``index.html`` first."""
    for name in not_core.__all__:
        getattr(not_core, name)  # now it is loaded, and pdoc sees it
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        # A type of pydantic's own that it has for type checkers only.
        warnings.filterwarnings("ignore", ".*PydanticDataclass")
        pdoc.pdoc(*modules, output_directory=out)


if __name__ == "__main__":
    build(Path(sys.argv[1]), tuple(sys.argv[2:]) or MODULES)
