"Settings of Sphinx for the pages that build.py prepares."
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project, html_title, copyright = "lightweight", "lightweight", "The lightweight team, Apache License 2.0"
extensions, html_theme, html_css_files, html_static_path = ["myst_nb"], "furo", ["style.css"], ["style.css"]
html_copy_source, html_show_sphinx, html_math_renderer = False, False, "mathml"  # copied sources would hold all pictures a second time
nb_execution_mode, nb_merge_streams, nb_render_markdown_format, nb_code_prompt_show, nb_code_prompt_hide = "off", True, "myst", "Source", "Source"
myst_enable_extensions, myst_heading_anchors, myst_dmath_double_inline = ["dollarmath", "colon_fence"], 4, True
suppress_warnings = ["myst.header"]  # the heading of a function has level 3, also where no section precedes it


def show_math(writer, node):
    "Browsers show MathML themselves: no script is fetched, and a folder without a network is enough."
    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", inline_renderers=(show_math, None), block_renderers=(show_math, None))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
