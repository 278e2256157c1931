import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from zsad.report import page

_VOID = {"meta", "img", "br"}


class _Reader(HTMLParser):
    """Collects tags and text and checks that what is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _read(html: str) -> _Reader:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def html() -> str:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    return page.page(
        "A <title> & more",
        [
            page.paragraph("note <b>", "note"),
            page.heading("head & shoulders"),
            page.table(["name", "value"], [["<i>x</i>", 12.345], ["y", None], ["z", float("nan")]], "100 % & so", [1]),
            page.pictures([page.picture(image, 'a "quoted" <caption>', "png")]),
        ],
    )


def test_page_is_well_formed_and_shows_text_as_it_is(html: str) -> None:
    text = "".join(_read(html).text)
    for words in ("A <title> & more", "note <b>", "head & shoulders", "<i>x</i>", "12.3", 'a "quoted" <caption>'):
        assert words in text


def test_page_fetches_nothing(html: str) -> None:
    for _, attributes in _read(html).tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?://|url\(|@import", html)
    assert "default-src 'none'" in html


def test_page_fits_a_phone_and_both_colour_schemes(html: str) -> None:
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html
    assert '<div class="wide"><table>' in html


def test_picture_comes_back_pixel_by_pixel(html: str) -> None:
    source = next(attributes["src"] for tag, attributes in _read(html).tags if tag == "img")
    assert source is not None
    data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))).flatten(), np.arange(48))


def test_cells_carry_what_they_are_sorted_by(html: str) -> None:
    keys = [attributes["data-key"] for tag, attributes in _read(html).tags if tag == "td"]
    assert keys == ["<i>x</i>", "12.345000", "y", "-1", "z", "-1"]


def test_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected 2 cells in each row, got 1"):
        page.table(["a", "b"], [["x"]])
