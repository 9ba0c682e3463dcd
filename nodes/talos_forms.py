"""What people choose and send about Talos machines: the files of a cluster that exists, and which patch they want."""

from __future__ import annotations

from urllib.parse import urlencode

from django import forms

from kubespan.core.documents import LIMIT_BYTES, TOO_LARGE
from kubespan.core.options import ClusterOptions
from kubespan.core.talos.configuration import Configuration, Unfit, read
from kubespan.core.talos.eras import DISCOVERY_DOCUMENTS, ERAS, Era
from nodes.forms import ClusterForm, Fields


class SeveralFiles(forms.FileInput):
    """A field for files that one may choose several of."""

    allow_multiple_selected = True


class Files(forms.FileField):
    """Several files; `cleaned_data` has them in a list."""

    widget = SeveralFiles

    def clean(self, data, initial=None):
        given = data if isinstance(data, list) else [data] if data else []
        if not given:
            super().clean(None, initial)
        return [super(Files, self).clean(one, initial) for one in given]


class ImportForm(ClusterForm):
    """A cluster that exists already: by what Talos wrote down of it, or by its id and secret."""

    configuration = Files(
        label="Talos files",
        required=False,
        allow_empty_file=True,
        help_text="A machine configuration (talosctl get machineconfig -o yaml) or a secrets bundle; up to three of "
        "one cluster. Read for id, secret and KubeSpan's options; nothing else of them is kept.",
    )
    take_options = forms.BooleanField(
        label="Use the KubeSpan options in them",
        required=False,
        initial=True,
        help_text="They take the place of those below, so that Linux machines act as the Talos machines do.",
    )
    cluster_id = forms.CharField(
        label="Cluster id",
        max_length=256,
        strip=False,
        required=False,
        help_text="Kept exactly as it is: the address prefix follows from its very text.",
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "class": "mono"}),
    )
    secret = forms.CharField(
        label="Cluster secret",
        required=False,
        help_text="32 bytes in base64. Encrypted before it is stored, and never shown without your password.",
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    field_order = ("name", "configuration", "take_options", "cluster_id", "secret")

    found: Configuration | None = None
    """What the files tell, once they were read."""

    def clean_configuration(self):
        files = self.cleaned_data["configuration"]
        if not files:
            return files
        contents = []
        for file in files:
            if file.size > LIMIT_BYTES:  # no more than that was kept
                raise forms.ValidationError(f"{file.name}: {TOO_LARGE}")
            contents.append((file.name, file.read()))
        try:
            self.found = read(contents)
        except Unfit as error:
            raise forms.ValidationError(str(error)) from None
        return files

    def clean(self):
        given = super().clean()
        if "configuration" in self.errors:
            return given
        for name, said in (("cluster_id", "cluster id"), ("secret", "cluster secret")):
            typed, found = given.get(name, ""), getattr(self.found, name, "")
            if typed and found and typed != found:
                self.add_error(
                    name, f"The files have another {said} than this one: leave it empty, or change the files."
                )
            elif not typed and not found and name not in self.errors and "configuration" not in self.errors:
                self.add_error("configuration" if self.found else name, self.missing(name))
            given[name] = typed or found
        return given

    def missing(self, name: str) -> str:
        """What to say where something was given in neither way."""
        if self.found is None:
            return self.fields[name].error_messages["required"]
        if name == "secret":
            return "There is no cluster secret in them: type it below, or choose a file that has it."
        return (
            "There is no cluster id in them: clusters from before Talos 0.12 have none. Make a new cluster here, whose "
            "Talos tab has the patch that gives its id and secret to the machines."
        )

    def options(self) -> ClusterOptions:
        """Those of the files, where they have any and that is wanted; otherwise those that were chosen."""
        chosen = super().options()
        return self.found.apply(chosen) if self.found and self.cleaned_data["take_options"] else chosen

    def notes(self) -> list[str]:
        """What the files tell besides, for whoever imports; none without files."""
        if self.found is None:
            return []
        notes = []
        if self.found.options and self.cleaned_data["take_options"]:
            names = ", ".join(name.replace("_", " ") for name in self.found.options)
            notes.append(f"KubeSpan's options were taken from the files: {names}.")
        if "enabled" not in self.found.options:
            notes.append("The files do not switch KubeSpan on: its Talos machines join the mesh once it is on there.")
        if self.found.services:
            notes.append(
                f"Its machines look for each other at {', '.join(self.found.services)} now. The patch below has them "
                "look here."
            )
        elif self.found.discovery is False:
            notes.append("Discovery is off in the files. The patch below switches it on.")
        return notes


class PatchForm(Fields):
    """Which patch for Talos machines."""

    release = forms.ChoiceField(
        label="Talos on the machines",
        choices=[(str(era.first), f"Talos {era.name}") for era in reversed(ERAS)],
        help_text="The oldest that runs on them. A cluster that was made before 0.12 takes the patch of the release "
        "that it runs now.",
    )
    legacy = forms.BooleanField(
        label="Made by an earlier Talos, and upgraded",
        required=False,
        help_text="An upgrade leaves the configuration in its older form (cluster.discovery, "
        "machine.network.kubespan), which matters from 1.13 on. A patch in the wrong form is refused as a whole.",
    )
    kubespan = forms.BooleanField(
        label="Set KubeSpan as it is here",
        required=False,
        help_text="Switches it on with this cluster's options. Without, the machines' own stay.",
    )
    beside = forms.BooleanField(
        label="Beside the public service",
        required=False,
        help_text="Machines go on to use discovery.talos.dev as well, and take what either knows; from 1.14 on.",
    )
    SWITCHES = ("kubespan", "beside", "legacy")

    @classmethod
    def of(cls, given, usual: Era) -> PatchForm:
        """What was chosen; where nothing was, or nothing that there is, what suits most."""
        form = cls(given)
        if "release" not in given or not form.is_valid():
            form = cls({"release": str(usual.first), "legacy": "on"})
            form.full_clean()
        return form

    @property
    def era(self) -> Era:
        """The chosen one."""
        return next(era for era in ERAS if str(era.first) == self.cleaned_data["release"])

    @property
    def switches(self) -> dict[str, bool]:
        """What else was chosen, as far as it matters to the era."""
        chosen = {name: self.cleaned_data[name] for name in self.SWITCHES}
        return chosen | {"beside": chosen["beside"] and self.era.has(DISCOVERY_DOCUMENTS)}

    @property
    def chosen(self) -> str:
        """The choice as a query, for a link."""
        given = {name: "on" for name in self.SWITCHES if self.cleaned_data[name]}
        return urlencode({"release": self.cleaned_data["release"], **given})
