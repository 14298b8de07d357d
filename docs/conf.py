"""How Sphinx makes the manual: pages in Markdown, the reference from the docstrings."""

import dataclasses
import importlib.metadata
import inspect
import re
from typing import Any

from sphinx.application import Sphinx

project = "loss-landscape-engine"
version = release = importlib.metadata.version(project)
project_copyright = "the authors of loss-landscape-engine"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["manual.css"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("FloatArray", "BoolArray", "IntArray", "LossLike", "ThetaLike")}
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True

_FIELD = re.compile(r"^    (\w+): ([^=#\n]+?)(?: = [^#\n]*)?(?:  # (.*))?$", re.MULTILINE)  # name, type, comment
_QUOTED = re.compile(r"`([^`]+)`")


def _plain_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with names in backticks and code indented; no reStructuredText is meant.

    The fields of a record, whose comments say what they hold, are listed below its docstring.
    """
    if inspect.isclass(obj) and dataclasses.is_dataclass(obj):
        fields = {field: comment or f"`{kind}`" for field, kind, comment in _FIELD.findall(inspect.getsource(obj))}
        lines += ["", *(f"- `{field}`: {fields[field]}" for field in obj.__dataclass_fields__ if field in fields), ""]
    written: list[str] = []
    code = example = False  # inside an indented block or an example, which are shown as they stand
    for line in lines:
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if line.startswith("    ") and not code and not (written and written[-1].strip()):
            written, code = [*written, "::", ""], True
        elif line.strip() and not line.startswith("    "):
            code = False
        if not code and not example:
            parts = _QUOTED.split(line)
            parts[::2] = [re.sub(r"([\\*|_])", r"\\\1", part) for part in parts[::2]]
            line = "".join(f"``{part}``" if k % 2 else part for k, part in enumerate(parts))
        written.append(line)
    lines[:] = written


def _without_comments(app: Sphinx, name: str, source: list[str]) -> None:
    """What pages run without showing it stays out of them."""
    source[0] = re.sub(r"^<!--.*?-->$", "", source[0], flags=re.MULTILINE | re.DOTALL)


def _no_signature_of_results(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str] | None:
    """Records that only the package makes are shown without the arguments they are made with."""
    made = inspect.isclass(obj) and dataclasses.is_dataclass(obj)
    required = (dataclasses.MISSING, dataclasses.MISSING)
    return ("", "") if made and required in [(f.default, f.default_factory) for f in dataclasses.fields(obj)] else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _without_comments)
    app.connect("autodoc-process-signature", _no_signature_of_results)
    app.connect("autodoc-process-docstring", _plain_text)
