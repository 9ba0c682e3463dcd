"""What people and machines did, in words: every verb of the audit has its sentence here, and a sign."""

from __future__ import annotations

from collections.abc import Mapping

NOUNS: Mapping[str, str] = {
    "node": "nodes",
    "cluster": "clusters and options",
    "token": "enrolment tokens",
    "rollout": "upgrades of agents",
    "user": "people",
    "invitation": "invitations",
    "api-token": "API tokens",
    "webhook": "webhooks",
    "console": "the console itself",
    "keys": "keys",
    "backup": "backups",
}
"""Kinds of deeds, by the first half of the verb, as a filter names them."""

VERBS: Mapping[str, tuple[str, str]] = {
    "node.enrolled": ("plug-connected", "enrolled"),
    "node.discovered": ("world", "discovered node"),
    "node.approved": ("user-check", "approved node"),
    "node.removed": ("trash", "removed node"),
    "node.renamed": ("server-2", "gave another name to node"),
    "node.options-set": ("settings", "set the options of node"),
    "node.networks-approved": ("route", "approved networks of node"),
    "node.told-to-try-again": ("refresh", "told to try again node"),
    "node.history-kept": ("history", "had the history kept of a link of node"),
    "node.history-let-go": ("history", "let go of the history of a link of node"),
    "cluster.created": ("affiliate", "created cluster"),
    "cluster.deleted": ("trash", "deleted cluster"),
    "cluster.options-set": ("settings", "set the options of cluster"),
    "cluster.secret-shown": ("eye", "looked at the secret of cluster"),
    "cluster.id-shown": ("eye", "looked at the id of cluster"),
    "cluster.affiliates-shown": ("eye", "looked at what affiliates say in cluster"),
    "cluster.patch-shown": ("eye", "took a Talos patch with id and secret of cluster"),
    "cluster.rotation-started": ("key", "handed out a new secret of cluster"),
    "cluster.rotation-renewed": ("key", "made anew the secret that is handed out in cluster"),
    "cluster.rotation-cancelled": ("key", "cancelled the rotation of the secret of cluster"),
    "cluster.secret-switched": ("key", "switched the secret of cluster"),
    "token.created": ("key", "created enrolment token"),
    "token.revoked": ("key", "revoked enrolment token"),
    "rollout.started": ("download", "began an upgrade of the agents of"),
    "rollout.done": ("circle-check", "finished the upgrade of the agents of"),
    "rollout.stopped": ("alert-triangle", "stopped the upgrade of the agents of"),
    "rollout.cancelled": ("x", "cancelled the upgrade of the agents of"),
    "user.created": ("user-plus", "created an account for"),
    "user.activated": ("user-check", "let in again"),
    "user.deactivated": ("lock", "shut out"),
    "user.role-given": ("users", "gave a role to"),
    "user.role-taken": ("users", "took a role from"),
    "user.signed-in": ("login", "signed in as"),
    "user.sign-in-failed": ("alert-triangle", "gave a wrong password for"),
    "user.sessions-ended": ("logout", "signed out elsewhere"),
    "user.password-changed": ("key", "changed the password of"),
    "user.second-factor-added": ("shield-check", "added a second factor to"),
    "user.second-factor-removed": ("shield-lock", "took a second factor from"),
    "user.second-factor-failed": ("alert-triangle", "gave a wrong second factor for"),
    "user.second-factor-reset": ("shield-lock", "took all second factors from"),
    "user.recovery-codes-made": ("shield-check", "made new recovery codes for"),
    "user.sign-on-linked": ("link", "linked single sign-on to"),
    "user.sign-on-unlinked": ("link-off", "took the link to single sign-on from"),
    "invitation.made": ("user-plus", "invited"),
    "invitation.withdrawn": ("x", "withdrew the invitation of"),
    "api-token.created": ("key", "created API token"),
    "api-token.revoked": ("key", "revoked API token"),
    "webhook.created": ("plus", "created webhook"),
    "webhook.changed": ("settings", "changed webhook"),
    "webhook.deleted": ("trash", "deleted webhook"),
    "webhook.enabled": ("circle-check", "enabled webhook"),
    "webhook.disabled": ("x", "disabled webhook"),
    "webhook.tested": ("activity", "tested webhook"),
    "webhook.secret-renewed": ("key", "renewed the secret of webhook"),
    "webhook.gave-up": ("alert-triangle", "disabled, after too many failures, webhook"),
    "console.first-code-made": ("key", "made a code for the first administrator of"),
    "console.restored": ("history", "began a new epoch, after a backup was restored, of"),
    "console.rebooted": ("history", "began a new epoch, for its machine was started anew, of"),
    "keys.rotated": ("key", "encrypted the kept secrets anew"),
    "backup.made": ("download", "made a backup of"),
    "backup.restored": ("history", "restored a backup of"),
}
"""By verb: an icon, and what completes "alice …" and leads to the object's name."""


def icon_of(verb: str) -> str:
    """The sign of a deed."""
    return VERBS[verb][0] if verb in VERBS else "user"


def deed(verb: str) -> str:
    """What was done, in words; a verb of a newer release, which a restored database may hold, by itself."""
    if verb in VERBS:
        return VERBS[verb][1]
    noun, _, past = verb.partition(".")
    return f"{past} {noun}".replace("-", " ")
