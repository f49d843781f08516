"""One self-contained HTML page of a night, without scripts and external files. Pure but for its templates."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tests.nightly.junit import plain
from tests.nightly.parts import duration
from tests.nightly.view import View, significant

_TEMPLATES = Path(__file__).parent / "templates"


def page(view: View) -> str:
    """The page. All texts of tests and of files are shown as text, whatever is in them."""
    return _environment().get_template("page.html").render(view=view)


def failed_page(when: str, problem: str) -> str:
    """The page where `page` itself failed: what went wrong."""
    return _environment().get_template("failed.html").render(when=when, problem=problem)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_control_characters,
    )
    environment.filters["duration"] = duration
    environment.filters["number"] = _number
    environment.filters["significant"] = significant
    environment.globals["style"] = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))
    return environment


def _without_control_characters(value: object) -> object:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _number(value: float | None, digits: int = 2) -> str:
    """A number with so many digits behind the point; a dash for None."""
    return "\N{EN DASH}" if value is None else f"{value:.{digits}f}"
