"""The frame of every page that this package writes: self-contained HTML from templates, with a list of its sections."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rllava_jax.report.names import interval_text, percent


class Section(NamedTuple):
    """A part of a page.

    Attributes:
      chapter: the macro of `templates/chapters.html` that shows it.
      data: what the macro takes; None leaves the section out.
      group: counts the data sets' splits of a page from 0; each has the same chapters.
    """

    chapter: str
    heading: str
    data: Mapping[str, Any] | None
    group: int = 0

    @property
    def name(self) -> str:
        """In the address of the page, e.g. "trust-2"."""
        return f"{self.chapter}-{self.group + 1}" if self.group else self.chapter


def page_html(
    *, eyebrow: str, title: str, scope: str, sections: Sequence[Section], images: Sequence[Mapping[str, Any]]
) -> str:
    """The whole page.

    It carries a policy under which a browser loads nothing from elsewhere and runs no script but the page's own.

    Args:
      scope: one sentence on what was evaluated.
      images: that its cards refer to, from `Album.images`.
    """
    script = _source("gallery.js")
    return _environment().get_template("page.html").render(
        eyebrow=eyebrow,
        title=title,
        scope=scope,
        sections=[section for section in sections if section.data is not None],
        images=images,
        style=_source("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )  # fmt: skip


@cache
def _environment() -> Environment:
    """What templates insert is escaped, unless it is `Markup`; a name that they lack is an error."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = PackageLoader("rllava_jax.report")
    environment.filters |= {"count": "{:,}".format, "percent": percent}
    environment.filters |= {"interval": interval_text, "readable": _readable}
    return environment


def _readable(text: str) -> str:
    """An answer without its loc tokens: `<loc0001>… liver` becomes `▢ liver`; the box is drawn in the picture."""
    return re.sub(r"(?:<loc\d{4}>){4}", "▢", text) or Markup("<em>empty</em>")


def _source(name: str) -> Markup:
    """A file as it is: its braces are no template's."""
    environment = _environment()
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])
