"""Docstrings as they are meant: signatures as in the source, and text in which * and | are just themselves."""

import ast
import inspect
import re
import textwrap


def setup(app):
    """Connect to autodoc."""
    app.connect("autodoc-process-docstring", _plain, priority=400)  # before napoleon, whose default is 500
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}


def _plain(app, what, name, thing, options, lines):
    """Docstrings have no emphasis and no substitutions, but shapes (*B, H, W) and conditionals q(z|x)."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        lines[i] = "".join(part if part.startswith("`") else re.sub(r"([*|])", r"\\\1", part) for part in parts)


def _signature(app, what, name, thing, options, signature, returned):
    """As it is written: `y: Float[ArrayLike, '*observations']`, where autodoc would write out the unions."""
    if what not in ("function", "method"):
        return None
    try:
        definition = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    if not isinstance(definition, ast.FunctionDef):
        return None
    arguments = definition.args
    if what == "method" and arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    result = None if definition.returns is None else ast.unparse(definition.returns)
    return f"({ast.unparse(arguments)})", result


def _skip(app, what, name, thing, skip, options):
    """Fields of named tuples, which their class describes under its attributes."""
    return True if type(thing).__name__ == "_tuplegetter" else None
