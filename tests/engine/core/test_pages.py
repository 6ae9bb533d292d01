"""What is put into a page: escaped, printable, and without lines of their own for the template's words."""

import pytest
from jinja2 import UndefinedError

from engine.core.pages import templates_in

TEMPLATE = """a
{% if text %}
  {% if number %}
{{ text }}|{{ number }}
  {% endif %}
{% endif %}
end
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("é & <b>", "é &amp; &lt;b&gt;"),
        ("a\n\tb", "a\n\tb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("\u2028", r"\u2028"),
    ],
)
def test_a_text_is_put_in_as_a_page_may_hold_it(tmp_path, text, shown):
    (tmp_path / "x.j2").write_text(TEMPLATE)
    template = templates_in(tmp_path).get_template("x.j2")
    assert template.render(text=text, number=7) == f"a\n{shown}|7\nend\n"
    assert template.render(text="", number=7) == "a\nend\n"
    with pytest.raises(UndefinedError):
        template.render(text=text)
