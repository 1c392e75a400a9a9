"""The frame of every page that this package writes: self-contained, with a list of its sections."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template
from typing import NamedTuple


class Section(NamedTuple):
    """A part of a page: its name in the address, its heading, and HTML."""

    name: str
    heading: str
    html: str


def page_html(*, eyebrow: str, title: str, scope: str, sections: Sequence[Section], after: str = "") -> str:
    """The whole page. Sections without HTML are left out.

    The page carries a policy under which a browser loads nothing from elsewhere and runs no script but the page's own.

    Args:
      scope: one sentence on what was evaluated.
      after: HTML at the page's end, such as the images that its cards refer to.
    """
    script = _resource("gallery.js")
    held = [section for section in sections if section.html]
    links = "".join(f'<li><a href="#{s.name}">{escape(s.heading)}</a></li>' for s in held)
    body = "\n".join(f'<section id="{s.name}"><h2>{escape(s.heading)}</h2>{s.html}</section>' for s in held)
    return Template(_resource("page.html")).substitute(
        eyebrow=escape(eyebrow),
        title=escape(title),
        scope=escape(scope),
        style=_resource("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        links=links,
        body=body,
        after=after,
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
