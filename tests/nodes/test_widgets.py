"""Fields that are drawn faster than Django draws them look the same."""

from __future__ import annotations

import pytest
from django import forms
from django.test.html import parse_html

from nodes.widgets import Select

PLAIN = (("", "All"), ("a<b", 'so "called" & more'), (3, "three"))


@pytest.mark.parametrize("value", ["", "a<b", "3", None, "of nobody"])
@pytest.mark.parametrize("choices", [PLAIN, (), (("odd", ((1, "one"), (3, "three"))), (2, "two"))])
def test_a_list_to_choose_from_is_djangos(choices, value):
    attributes = {"class": "form-select", "required": True, "disabled": False, "id": "id_x", "title": '"<'}
    ours = Select(choices=choices, attrs=attributes).render("x", value)
    assert parse_html(ours) == parse_html(forms.Select(choices=choices, attrs=attributes).render("x", value))
