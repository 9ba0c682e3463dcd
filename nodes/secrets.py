"""Secrets at rest: encrypted with named keys from the environment, and opened only when somebody asks.

`KUBESPAN_KEYS` names them in order; the first one encrypts, all of them decrypt, so a new key is put in front and the
old one stays until `manage.py rotate_keys` has encrypted everything anew. A value is stored as `name$token`:
when its key is missing, the name of that key can be said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.fernet import Fernet, InvalidToken
from django.apps import apps
from django.conf import settings
from django.core import checks
from django.db import DatabaseError, models
from django.db.models.query_utils import DeferredAttribute


class Unreadable(Exception):
    """A stored secret that none of the keys opens; the text names the key that is needed, never the secret."""


class Secret:
    """A secret in memory: it shows itself only by `reveal`, never in a repr, a log or a template."""

    __slots__ = ("_plain", "_stored")

    def __init__(self, plain: str | None = None, *, stored: str | None = None) -> None:
        self._plain = plain
        self._stored = stored

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self.reveal() == other.reveal()

    __hash__ = None  # type: ignore[assignment] # two encryptions of one secret differ, and its text is not for hashing

    def reveal(self) -> str:
        """The secret itself; raises Unreadable."""
        if self._plain is None:
            self._plain = _decrypt(self._stored or "")
        return self._plain

    def dump(self) -> str:
        """What the database keeps; a value that was read and not changed stays as it is."""
        if self._stored is None:
            self._stored = _encrypt(self._plain or "")
        return self._stored

    @property
    def key_name(self) -> str:
        """Which key the stored form needs."""
        return self.dump().partition("$")[0]


def _keys() -> dict[str, Fernet]:
    return {name: _fernet(key) for name, key in settings.KUBESPAN_KEYS.items()}


@lru_cache(maxsize=16)
def _fernet(key: str) -> Fernet:
    return Fernet(key)


def newest_key() -> str:
    """The name of the key that encrypts."""
    return next(iter(_keys()))


def _encrypt(plain: str) -> str:
    name = newest_key()
    return f"{name}${_keys()[name].encrypt(plain.encode()).decode()}"


def _decrypt(stored: str) -> str:
    name, _, token = stored.partition("$")
    key = _keys().get(name)
    if key is None:
        raise Unreadable(f"needs key {name!r}, which KUBESPAN_KEYS does not hold")
    try:
        return key.decrypt(token.encode()).decode()
    except InvalidToken:
        raise Unreadable(f"does not open with key {name!r}: it is damaged, or another key bears that name") from None


class _Wrapped(DeferredAttribute):
    """The attribute of a SecretField: a plain text that is assigned is wrapped at once; no instance holds it bare."""

    def __set__(self, instance: models.Model, value: Any) -> None:
        instance.__dict__[self.field.attname] = self.field.to_python(value)


if TYPE_CHECKING:
    _TextField = models.TextField[Secret | str, Secret]
else:
    _TextField = models.TextField


class SecretField(_TextField):
    """A column that holds a Secret, encrypted; a plain text may be assigned."""

    description = "a secret, encrypted at rest"
    descriptor_class = _Wrapped

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Secret | None:
        """Wrap what is stored; it is opened only when asked for, so that a missing key hides no other column."""
        return None if value is None else Secret(stored=value)

    def to_python(self, value: Any) -> Secret | None:
        """Take a Secret, or the plain text of one."""
        return value if value is None or isinstance(value, Secret) else Secret(str(value))

    def get_prep_value(self, value: Any) -> str | None:
        """Encrypt on the way in."""
        secret = self.to_python(value)
        return None if secret is None else secret.dump()


def secret_fields() -> list[tuple[type[models.Model], SecretField]]:
    """Every column of the console that holds secrets."""
    return [
        (model, field) for model in apps.get_models() for field in model._meta.fields if isinstance(field, SecretField)
    ]


FACTOR_SECRETS = ("secret", "seed")
"""What in a second factor's data is a stored secret: an app's key, and the seed of recovery codes."""


class Sealed(NamedTuple):
    """A stored secret, what all of its kind are called, what one is, and of which row this one is."""

    secret: Secret
    kind: str
    what: str
    row: models.Model

    @property
    def name(self) -> str:
        """Such as `secret of cluster homelab`; a row's own name may cost a query."""
        return f"{self.what} {self.row}"

    @property
    def fault(self) -> str:
        """Why it cannot be opened, which completes its name to a sentence; empty where it can."""
        try:
            self.secret.reveal()
        except Unreadable as fault:
            return str(fault)
        return ""


def sealed() -> Iterator[Sealed]:
    """Every stored secret, second factors among them: one query a column, and one for those."""
    for model, field in secret_fields():
        meta, what = model._meta, field.verbose_name
        rows = model._default_manager.exclude(**{field.attname: None})
        for row in rows.only("pk", field.attname, *_title_fields(model)):
            secret = getattr(row, field.attname)
            yield Sealed(secret, f"{what} of {meta.verbose_name_plural}", f"{what} of {meta.verbose_name}", row)
    for factor in apps.get_model("mfa", "Authenticator")._default_manager.select_related("user"):
        for stored in (factor.data[name] for name in FACTOR_SECRETS if name in factor.data):
            yield Sealed(Secret(stored=stored), "second factors", "second factor of", factor.user)


def unreadable() -> list[str]:
    """One sentence for each stored secret that cannot be opened, naming row and missing key."""
    return [f"the {one.name} {fault}" for one in sealed() if (fault := one.fault)]


@checks.register(checks.Tags.database)
def check_secrets(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of secrets that no key opens, where the database is looked at: `migrate`, `check --database default`."""
    if not databases:
        return []
    try:
        faults = unreadable()
    except DatabaseError:  # not migrated yet
        return []
    hint = "Add the key again, behind the newer ones, and run manage.py rotate_keys."
    return [checks.Warning(fault, hint=hint, id="nodes.W001") for fault in faults]


def _title_fields(model: type[models.Model]) -> list[str]:
    return [field.name for field in model._meta.fields if field.name == "name"]
