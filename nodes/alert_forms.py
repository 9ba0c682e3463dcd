"""What people type about webhooks."""

from __future__ import annotations

from datetime import timedelta

from django import forms

from nodes.forms import Fields
from nodes.models import Cluster, Webhook
from nodes.notify import KINDS
from nodes.services.webhooks import Wanted

DOWN_AFTER = (
    ("0", "at once"),
    ("30", "30 seconds"),
    ("60", "a minute"),
    ("300", "5 minutes"),
    ("900", "15 minutes"),
    ("3600", "an hour"),
)


class WebhookForm(Fields):
    """A webhook; an address that is left empty stays as it is."""

    name = forms.CharField(
        label="Name",
        max_length=63,
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "on-call channel"}),
    )
    url = forms.CharField(
        label="Address",
        max_length=2000,
        required=False,
        help_text="Kept encrypted and not shown again, for whoever knows it may often write there.",
        widget=forms.TextInput(
            attrs={"type": "url", "autocomplete": "off", "spellcheck": "false", "placeholder": "https://…"}
        ),
    )
    format = forms.ChoiceField(label="Written as", choices=Webhook.Format.choices, initial=Webhook.Format.JSON)
    kinds = forms.MultipleChoiceField(label="Tells when", choices=list(KINDS.items()), required=False)
    down_seconds = forms.ChoiceField(label="A link is told to be down after", choices=DOWN_AFTER, initial="60")
    clusters = forms.ModelMultipleChoiceField(
        queryset=Cluster.objects.all(), to_field_name="uuid", label="Clusters", required=False
    )

    DEFAULT_KINDS = ("node.pending", "node.away", "link.down", "link.up", "configuration.fault")

    @classmethod
    def first(cls, webhook: Webhook) -> dict[str, object]:
        """What the form shows of a webhook."""
        return {
            "name": webhook.name,
            "format": webhook.format,
            "kinds": webhook.kinds,
            "down_seconds": str(webhook.down_seconds),
            "clusters": [str(uuid) for uuid in webhook.clusters.values_list("uuid", flat=True)],
        }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if "name" in self.initial:
            self.fields["url"].widget.attrs["placeholder"] = "as it is"
        # A choice that a command made is kept, though the list does not have it.
        asked = str(self["down_seconds"].value())
        if asked not in dict(DOWN_AFTER) and asked.isdecimal():
            self.fields["down_seconds"].choices = [*DOWN_AFTER, (asked, f"{asked} seconds")]

    def kind_boxes(self) -> list[tuple[str, str, bool]]:
        """Kind, words, whether it is chosen."""
        chosen = self["kinds"].value() or ()
        return [(kind, words[0].upper() + words[1:], kind in chosen) for kind, words in KINDS.items()]

    def cluster_boxes(self) -> list[tuple[str, str, bool]]:
        """The clusters: uuid, name, whether it is chosen."""
        chosen = {str(uuid) for uuid in self["clusters"].value() or ()}
        return [(str(one.uuid), one.name, str(one.uuid) in chosen) for one in self.fields["clusters"].queryset]

    def wanted(self) -> Wanted:
        """What was asked for; only after the form was found valid."""
        given = self.cleaned_data
        return Wanted(
            name=given["name"],
            url=given["url"].strip(),
            format=given["format"],
            kinds=given["kinds"],
            clusters=list(given["clusters"]),
            down=timedelta(seconds=int(given["down_seconds"])),
        )
