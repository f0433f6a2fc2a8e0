"""Templates to text, as HTML or as GitHub's Markdown."""

from __future__ import annotations

import re
from base64 import b64encode
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2.bccache import Bucket
from jinja2.runtime import Context
from markupsafe import Markup

# What means something in GitHub's Markdown: not `_` in a word; the signs of what becomes a link.
MARKUP = re.compile(r"[\\`*\[\]|~@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def rendered(form: Literal["html", "markdown"], template: str, **context: Any) -> str:
    """A template's text; whatever it prints is escaped for the form."""
    text = ENVIRONMENT.get_template(template).render(context, form=form)
    if form == "markdown":  # neither indents nor further blank lines mean anything in ours
        text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
        text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return text


class _Compiled(jinja2.FileSystemBytecodeCache):
    """Compiled templates (0.1 s), kept beside Python's own compiled files where that can be."""

    def dump_bytecode(self, bucket: Bucket) -> None:
        with suppress(OSError):
            super().dump_bytecode(bucket)


def as_markdown(text: str) -> str:
    """Text as it reads, in one line: no picture, link, tag, code, emphasis, or end of a cell.

    Prefect's pages take artifacts for Markdown, cells of tables and descriptions included, and the
    HTML in it for HTML.
    """
    return MARKUP.sub(r"\\\g<0>", escape(re.sub(r"\s+", " ", text), quote=False))


@jinja2.pass_context
def _escaped(context: Context, value: Any) -> Any:
    """What is escaped already stays as it is; for HTML, Jinja escapes."""
    if context["form"] == "html" or hasattr(value, "__html__"):
        return value
    return Markup(as_markdown(str(value)))  # noqa: S704 - escaped just now


def _data_uri(picture: bytes | str, kind: str) -> str:
    """A PNG, or the text of an SVG, as a URI."""
    content = picture.encode() if isinstance(picture, str) else picture
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__),
    bytecode_cache=_Compiled(str(Path(__file__).with_name("__pycache__"))),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=_escaped,
)
ENVIRONMENT.filters |= {"digits": "{:.4f}".format, "thousands": "{:,}".format, "uri": _data_uri}
