"""What people type about API tokens."""

from __future__ import annotations

from datetime import timedelta

from django import forms

from nodes.forms import Fields
from nodes.models import Role

LIFETIMES = (("7", "a week"), ("30", "30 days"), ("90", "90 days"), ("365", "a year"))

SEES = {
    Role.VIEWER: "sees what a viewer sees",
    Role.OPERATOR: "sees what an operator sees",
    Role.ADMINISTRATOR: "sees what an administrator sees",
}


class ApiTokenForm(Fields):
    """A token of one's own."""

    name = forms.CharField(
        label="Name",
        max_length=63,
        help_text="What it is for.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "inventory script"}),
    )
    role = forms.ChoiceField(label="It only reads, and", help_text="Never more than you see yourself.")
    lifetime = forms.ChoiceField(label="Good for", choices=LIFETIMES, initial="90")

    def __init__(self, highest: Role | None, *args, **kwargs):
        super().__init__(*args, **kwargs)
        ours = [role for role in Role if highest is not None and highest.includes(role)]
        self.fields["role"].choices = [(role.value, SEES[role]) for role in ours]

    def clean_lifetime(self):
        return timedelta(days=int(self.cleaned_data["lifetime"]))
