"""Equations as MathML, which browsers draw themselves: no script and no font from elsewhere."""

import latex2mathml.converter
from docutils import nodes
from sphinx.util import logging


def setup(app):
    """Make it the way that equations are written in HTML."""
    app.add_html_math_renderer("mathml", (_writer("inline"), None), (_writer("block"), None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True}


def _writer(display):
    def visit(self, node):
        equation = latex2mathml.converter.convert(node.astext(), display=display)
        if "\\" in equation:  # a command that is not known is left as it is
            logging.getLogger(__name__).warning("an equation with unknown commands: %s", node.astext(), location=node)
        self.body.append(equation)
        raise nodes.SkipNode

    return visit
