"""One self-contained HTML file for people: no network, no script, light and dark, phone and paper."""

from __future__ import annotations

from importlib import resources
from typing import Any

import medcl

_CONTENT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(room: str, template: str, **content: Any) -> str:
    """Fill a template of a package (`medcl.reporting`, say); it may extend `base.html` and must use all-escaped values.

    Whatever a user named is text, never markup. Raises jinja2's UndefinedError for a name that `content` lacks.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    own, base = resources.files(room), resources.files("medcl.foundation")
    loader = FunctionLoader(lambda name: (base if name == "base.html" else own).joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = base.joinpath("page.css").read_text(encoding="utf-8")
    page = environment.get_template(template).render(style=style, policy=_CONTENT_POLICY, version=medcl.__version__, **content)
    return "\n".join(line.rstrip() for line in page.splitlines() if line.strip()) + "\n"
