"""What people type: decoded here, judged by the services and the core."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from django import forms

from kubespan.core.options import DEFAULT_MTU, MAXIMUM_MTU, MINIMUM_MTU, ClusterOptions
from nodes.access import clusters_where, may
from nodes.counters import count
from nodes.models import Role
from nodes.services.refused import Refused
from nodes.widgets import Select


class Fields(forms.Form):
    """A form whose faults screen readers find, and which can show what a service refused."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("label_suffix", "")
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            kind = "form-select" if isinstance(field.widget, forms.Select) else "form-control"
            if isinstance(field.widget, forms.CheckboxInput):
                kind = "form-check-input"
            if not isinstance(field.widget, forms.RadioSelect):
                field.widget.attrs["class"] = kind

    def add_error(self, field, error):
        super().add_error(field, error)
        for name in self.errors:
            if name in self.fields and "is-invalid" not in self.fields[name].widget.attrs.get("class", ""):
                self.fields[name].widget.attrs["class"] = (
                    f"{self.fields[name].widget.attrs.get('class', '')} is-invalid"
                )
        first = next((name for name in self.fields if name in self.errors), None)
        for name, shown in self.fields.items() if first else ():
            shown.widget.attrs["autofocus"] = name == first

    def count_faults(self) -> None:
        """Count what was sent and is wrong by itself, before any service saw it."""
        for name in self.errors:
            count(f"page.{name.replace('_', '-')}")

    def refuse(self, refusal: Refused) -> None:
        """Show why a service refused, at the field that its code names, else above the form; it is counted."""
        count(f"page.{refusal.code}")
        words = refusal.code.replace("-", "_")
        longest_first = sorted(self.fields, key=len, reverse=True)
        field = next((name for name in longest_first if name in words), None)
        self.add_error(field, refusal.reason)


class Lines(forms.CharField):
    """Several entries, one a line; blank lines are forgiven."""

    def __init__(self, **kwargs):
        kwargs.setdefault("required", False)
        kwargs.setdefault("widget", forms.Textarea(attrs={"rows": 2, "spellcheck": "false", "autocapitalize": "off"}))
        super().__init__(**kwargs)

    def prepare_value(self, value):
        return "\n".join(value) if isinstance(value, (list, tuple)) else value

    def to_python(self, value):
        return tuple(line.strip() for line in super().to_python(value).splitlines() if line.strip())


STRENGTH = "At least eight characters, and none that everybody uses."


class PersonForm(Fields):
    """A new person's name and password; what is wrong with either the service says."""

    username = forms.CharField(
        label="User name", max_length=150, widget=forms.TextInput(attrs={"autocomplete": "username", "autofocus": True})
    )
    password = forms.CharField(
        label="Password",
        help_text=STRENGTH,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )
    again = forms.CharField(
        label="Password again", strip=False, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"})
    )

    def clean(self):
        given = super().clean()
        if given.get("password") and given.get("again") and given["again"] != given["password"]:
            self.add_error("again", "The two passwords differ.")
        return given


class FirstAdministratorForm(PersonForm):
    """Makes the first administrator; the code proves that one can read the console's own output."""

    code = forms.CharField(
        label="One-time code",
        help_text="The console printed it when it started.",
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "spellcheck": "false", "autofocus": True}),
    )
    field_order = ("code", "username", "password", "again")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        del self.fields["username"].widget.attrs["autofocus"]


class Routing:
    """What happens to traffic for a peer that is not up: three ways, from two options."""

    BYPASS = "bypass"
    AFTER = "after-handshake"
    ALWAYS = "always"
    CHOICES = (
        (AFTER, "Encrypted once the peer has been reached"),
        (ALWAYS, "Always encrypted"),
        (BYPASS, "Encrypted while the peer is up"),
    )
    CONSEQUENCES = {
        AFTER: "Traffic takes the ordinary route until the first handshake; from then on it waits for the tunnel, "
        "even while the peer is down. A join locks nobody out.",
        ALWAYS: "From the first moment traffic for a peer takes the tunnel or fails. KubeSpan's own way; a peer that "
        "cannot be reached is cut off.",
        BYPASS: "While a peer is down its traffic takes the ordinary route, unencrypted by KubeSpan.",
    }

    @classmethod
    def of(cls, options: ClusterOptions) -> str:
        """Which way the options choose."""
        if options.allow_down_peer_bypass:
            return cls.BYPASS
        return cls.ALWAYS if options.force_from_start else cls.AFTER


class OptionsForm(Fields):
    """A cluster's KubeSpan options, each with its consequence."""

    enabled = forms.BooleanField(
        label="KubeSpan is on",
        required=False,
        initial=True,
        help_text="Off takes the tunnel away from every machine of the cluster; they stay enrolled.",
    )
    discovery = forms.BooleanField(
        label="Discovery service",
        required=False,
        initial=True,
        help_text="Talos machines, and whoever else knows the cluster id, find each other at this console. Linux "
        "machines are told of each other by the console, with or without it. On without KubeSpan, the cluster is one "
        "of discovery alone.",
    )
    routing = forms.ChoiceField(label="Traffic between members", choices=Routing.CHOICES, initial=Routing.AFTER)
    harvest_extra_endpoints = forms.BooleanField(
        label="Harvest endpoints",
        required=False,
        help_text="Members report where they see each other, and others try those addresses too. "
        "Helps behind address translation; costs more endpoints to try.",
    )
    probes = forms.BooleanField(
        label="Measure round trip and loss",
        required=False,
        initial=True,
        help_text="Each machine sends every peer that is up one small packet (ICMPv6 echo) through the tunnel every "
        "30 seconds, every second while somebody looks. Off, pages and charts have no round trip and no loss.",
    )
    advertise_kubernetes_networks = forms.BooleanField(
        label="Advertise Kubernetes networks",
        required=False,
        help_text="Linux machines that are nodes of Kubernetes ask to advertise their pod networks, which then go "
        "through the tunnel as well; each waits for a yes, or for a range below. Talos machines do so by their own "
        "configuration. Leave it off unless the network plugin routes pods without an overlay of its own.",
    )
    mtu = forms.IntegerField(
        label="MTU of the KubeSpan link",
        initial=DEFAULT_MTU,
        min_value=MINIMUM_MTU,
        max_value=MAXIMUM_MTU,
        help_text=f"{DEFAULT_MTU} suits a network of 1,500. Too large loses big packets; too small costs some speed.",
    )
    endpoint_filters = Lines(
        label="Endpoints that machines offer",
        help_text="Networks, one a line, in order; ! excludes. Empty: every address but the excluded kinds.",
    )
    peer_endpoint_filters = Lines(
        label="Endpoints that machines try",
        help_text="The same, for the other side: which of a peer's endpoints are tried at all.",
    )
    exclude_advertised_networks = Lines(
        label="Networks left out",
        help_text="Networks, one a line, that stay on the ordinary route even when a member advertises them.",
    )
    approved_networks = Lines(
        label="Networks that machines may advertise",
        help_text="Ranges, one a line: a network within them that a machine claims needs no further yes of yours.",
    )
    extra_endpoints = Lines(
        label="Further endpoints of every machine",
        help_text="address:port, one a line, at which each machine is tried besides its own, such as the forwarded "
        "ports of the router that all stand behind. One machine's own are set on its page.",
    )

    CHOSEN = (
        "enabled", "discovery", "probes", "harvest_extra_endpoints", "advertise_kubernetes_networks", "mtu",
        "endpoint_filters", "peer_endpoint_filters", "exclude_advertised_networks", "approved_networks",
        "extra_endpoints",
    )  # fmt: skip
    LISTS = tuple(name for name, value in msgspec.structs.asdict(ClusterOptions()).items() if value == ())

    @classmethod
    def first(cls, options: ClusterOptions) -> dict[str, object]:
        """What the form shows for these options."""
        return {name: getattr(options, name) for name in cls.CHOSEN} | {"routing": Routing.of(options)}

    def consequences(self) -> list[tuple[str, str, str, bool]]:
        """The ways of routing: value, label, consequence, chosen."""
        chosen = self["routing"].value()
        return [(value, label, Routing.CONSEQUENCES[value], value == chosen) for value, label in Routing.CHOICES]

    def clean(self):
        given = super().clean()
        for name in self.LISTS:
            try:
                ClusterOptions(**{name: given.get(name, ())}).check()
            except ValueError as error:
                self.add_error(name, str(error))
        return given

    def options(self) -> ClusterOptions:
        """The options that were chosen; only after the form was found valid."""
        given = self.cleaned_data
        return ClusterOptions(
            allow_down_peer_bypass=given["routing"] == Routing.BYPASS,
            force_from_start=given["routing"] == Routing.ALWAYS,
            **{name: given[name] for name in self.CHOSEN},
        )


class ClusterForm(OptionsForm):
    """A new cluster with an id and a secret made for it."""

    name = forms.CharField(
        label="Name",
        max_length=63,
        help_text="For people; it may be anything, and can be seen on every page.",
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "off", "placeholder": "homelab"}),
    )
    field_order = ("name",)

    @property
    def wrong_options(self) -> bool:
        """Whether an option is wrong: they are then not folded away."""
        return any(name in OptionsForm.base_fields for name in self.errors)


class RotationForm(Fields):
    """How a rotation of the secret comes to its switch."""

    WAYS = (
        ("manual", "Switch when I say so", "You look at who has it, and switch from this page."),
        (
            "automatic",
            "Switch by itself",
            "As soon as every machine is connected and has it: nobody is cut off. Until then it waits.",
        ),
    )

    way = forms.ChoiceField(label="The switch", choices=[way[:2] for way in WAYS], initial="manual")

    def ways(self):
        """The ways: value, label, consequence, chosen."""
        chosen = self["way"].value()
        return [(value, label, text, value == chosen) for value, label, text in self.WAYS]


class GenerationForm(Fields):
    """Which rotation a button was pressed for: it may have become another one meanwhile."""

    generation = forms.IntegerField(widget=forms.HiddenInput)


class TypedNameForm(Fields):
    """The name of what is about to go, typed; the service compares it."""

    typed_name = forms.CharField(
        required=False, widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})
    )


class TypedCountForm(Fields):
    """How many things are about to go, typed; the service compares it."""

    typed_count = forms.CharField(
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "off", "inputmode": "numeric", "autofocus": True}),
    )

    def __init__(self, number, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["typed_count"].label = f"Type {number} to go on"
        self.fields["typed_count"].widget.attrs["data-typed-name"] = str(number)


class LeaveOutForm(Fields):
    """Networks that others do not route to the chosen machines."""

    networks = Lines(label="Networks", required=True, help_text="One a line, such as 172.17.0.0/16.")
    way = forms.ChoiceField(
        label="What to do",
        choices=(("out", "Leave them out"), ("again", "Route them again")),
        initial="out",
    )


LIFETIMES = (
    ("900", "15 minutes"),
    ("3600", "an hour"),
    ("86400", "a day"),
    ("604800", "a week"),
    ("2592000", "30 days"),
)


class TokenForm(Fields):
    """An enrolment token."""

    cluster = forms.ModelChoiceField(queryset=None, to_field_name="uuid", empty_label=None, widget=Select)
    uses = forms.IntegerField(
        label="Machines", initial=1, min_value=1, max_value=10_000, help_text="How many it may enrol."
    )
    lifetime = forms.ChoiceField(label="Good for", choices=LIFETIMES, initial="3600", widget=Select)
    name = forms.CharField(
        label="Name",
        max_length=63,
        required=False,
        help_text="What it is for; found again in the list of tokens.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "rack 4"}),
    )
    approval_required = forms.BooleanField(
        label="Ask me before a machine takes part",
        required=False,
        help_text="Until you say yes, a machine learns neither the secret nor any member.",
    )

    def __init__(self, clusters, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["cluster"].queryset = clusters

    def clean_lifetime(self):
        return timedelta(seconds=int(self.cleaned_data["lifetime"]))


ROLES = (
    (Role.VIEWER, "Viewer: sees everything there, changes nothing"),
    (Role.OPERATOR, "Operator: and acts on nodes, links, tokens and options"),
    (Role.ADMINISTRATOR, "Administrator: and the secret, rotation, deletion and people"),
)


class Where(forms.ModelChoiceField):
    """A cluster, or the whole console for those who may decide about that."""

    def __init__(self, **kwargs):
        super().__init__(queryset=None, required=False, to_field_name="uuid", label="Where", **kwargs)

    def offer(self, user) -> None:
        """What this person may choose."""
        self.queryset = clusters_where(user, "manage_people")
        self.required = not may(user, "manage_people")
        self.empty_label = None if self.required else "The whole console"


class RoleForm(Fields):
    """A role, and where it holds."""

    role = forms.ChoiceField(label="Role", choices=ROLES)
    where = Where()

    def __init__(self, user, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["where"].offer(user)


class InvitationForm(RoleForm):
    """A role for somebody who has no account yet."""

    name = forms.CharField(label="For whom", max_length=150, help_text="Proposed as their user name.")
    lifetime = forms.TypedChoiceField(
        label="The link lasts",
        choices=((1, "a day"), (7, "a week"), (30, "30 days")),
        initial=7,
        coerce=lambda days: timedelta(days=int(days)),
    )
    field_order = ("name", "role", "where", "lifetime")


class NodeOptionsForm(Fields):
    """What an operator sets for one node."""

    site = forms.CharField(
        required=False,
        max_length=63,
        help_text="Where it stands, in your words: the map and the lists group by it.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "rack 4"}),
    )
    extra_endpoints = Lines(
        label="Further endpoints",
        help_text="address:port, one a line: where others can reach it besides what it says itself, "
        "such as a forwarded port of its router.",
    )
    advertised_networks = Lines(
        label="Networks behind it",
        help_text="Networks, one a line, that every other member reaches through this machine.",
    )
    excluded_networks = Lines(
        label="Networks left out", help_text="Networks, one a line, that others do not route to this machine."
    )


class RenameForm(Fields):
    """Another name for a node."""

    name = forms.CharField(
        max_length=253,
        help_text="Letters, digits, dots, hyphens and underscores; no other node of the cluster has it.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "data-focus": ""}),
    )


class NetworksForm(Fields):
    """Which of the networks that a node claims an operator says yes to."""

    networks = forms.MultipleChoiceField(required=False, widget=forms.CheckboxSelectMultiple)

    def __init__(self, node, *args, **kwargs):
        super().__init__(*args, **kwargs)
        waiting = [network for network in node.claimed_networks if network not in node.networks]
        self.fields["networks"].choices = [(network, network) for network in waiting]
