"""The settings that this machine holds: taken from the console or the store, kept before they are applied."""

from __future__ import annotations

import msgspec

from kubespan.agent.enrol import check_address
from kubespan.agent.mesh import Mesh
from kubespan.agent.publish import Write
from kubespan.agent.store import (
    SEND_AGAIN,
    SETTINGS,
    Discovery,
    DiscoveryService,
    Enrolment,
    Settings,
    Store,
    StoreError,
)
from kubespan.core.cluster import parse_cluster_secret
from kubespan.core.membership import Gap, Membership
from kubespan.core.messages import ClusterSecret, Delta, MessageError, Revision, Snapshot, Welcome
from kubespan.core.rotation import Secrets
from kubespan.core.sealing import open_sealed


class Held:
    """Settings on their way from the console through the store into the mesh."""

    def __init__(self, store: Store, enrolment: Enrolment, mesh: Mesh) -> None:
        self.mesh = mesh
        self._store = store
        self.enrolment = self._enrolled = enrolment
        self.settings = self._stored = Settings(cluster=enrolment.cluster)
        self.discovery = self._discovery = Discovery()
        """Where discovery services are, by the console's word or the operator's."""

    @property
    def revision(self) -> Revision | None:
        """Of the members and options held; none before there are any."""
        return self.mesh.membership.revision

    @property
    def secret_generation(self) -> int:
        """Of the newest cluster secret that is stored; 0 for none, and for too few: then all are wanted."""
        return 0 if self.missing else self._stored.secrets.newest

    @property
    def missing(self) -> int:
        """The generation that the settings name and that is not held, though another one is; 0 for none."""
        named = self.mesh.membership.secret_generation
        in_use = self.settings.secret_generation
        return named if in_use and named and named != in_use else 0

    @property
    def shortage(self) -> str:
        """What the settings need and this machine has not got, in a sentence; empty when it has all."""
        if not self.missing:
            return ""
        return (
            f"the cluster secret of generation {self.missing} has not reached this machine, which goes on with "
            f"generation {self.settings.secret_generation}: others that have switched will not answer its handshakes"
        )

    def restore(self) -> None:
        """Take up the settings of the last run; raises StoreError."""
        self.discovery = self._discovery = self._store.discovery()
        stored = self._store.settings(self.enrolment.cluster)
        if stored is None:
            return
        membership = Membership()
        if stored.snapshot is not None:
            membership = membership.apply(stored.snapshot)
        try:
            membership.options.check()
            for secret in (stored.secret, *(one.secret for one in stored.secrets.others)):
                if secret:
                    parse_cluster_secret(secret)
        except ValueError as error:
            raise self._store.damaged(SETTINGS, str(error), SEND_AGAIN) from None
        self.settings = self._stored = stored
        self.mesh.take(membership, stored.secret)

    def take_membership(self, news: Snapshot | Delta) -> None:
        """Take members and options; raises MessageError, and changes nothing, when they do not fit what is held."""
        try:
            membership = self.mesh.membership.apply(news)
            membership.options.check()
        except (Gap, ValueError) as error:
            raise MessageError(str(error)) from None
        if membership is not self.mesh.membership:
            self._take(membership, self.settings.secrets)

    def take_secret(self, message: ClusterSecret) -> None:
        """Take a cluster secret, to be used once the settings name its generation.

        Raises ValueError when it was not sealed for this machine, or is none.
        """
        secret = open_sealed(
            message.sealed,
            self.mesh.own.keys.private_key,
            cluster=self.enrolment.cluster,
            node_id=self.enrolment.node_id,
            generation=message.generation,
        )
        parse_cluster_secret(secret)
        self._take(self.mesh.membership, self.settings.secrets.take(message.generation, secret))

    def join(self, welcome: Welcome) -> None:
        """Take what a machine learns of its cluster when it is let in; raises MessageError where that cannot be.

        What is known already must be the same: a cluster's id never changes, and this machine's address with it.
        """
        known = self.enrolment.cluster_id
        if known and welcome.cluster_id in {"", known}:
            return
        if known:
            raise MessageError("the console tells this machine that it is of another cluster than it enrolled in")
        try:
            address = check_address(welcome.cluster_id, welcome.address, self._read_mac())
        except ValueError as error:
            raise MessageError(str(error)) from None
        self.enrolment = msgspec.structs.replace(
            self.enrolment,
            cluster_id=welcome.cluster_id,
            cluster_name=welcome.cluster_name,
            address=str(address),
        )
        self.mesh.join(address)

    def take_discovery(self, url: str) -> None:
        """Take where the console says that discovery is; an empty text for nowhere."""
        services = (DiscoveryService(url=url),) if url else ()
        if services != self.discovery.services:
            self.discovery = Discovery(services=services)

    async def keep(self, write: Write) -> str:
        """Store what is held, if it is not stored yet: whoever is killed after this applies it at the next start.

        Returns what kept it from being stored, and empty text else; a full disk must not stop the mesh.
        """
        enrolment, settings, discovery = self.enrolment, self.settings, self.discovery
        try:
            if enrolment is not self._enrolled:
                await write(lambda: self._store.save_enrolment(self._enrolled, enrolment))
                self._enrolled = enrolment
            if settings is not self._stored:
                await write(lambda: self._store.save_settings(settings))
                self._stored = settings
            if discovery is not self._discovery:
                await write(lambda: self._store.save_discovery(discovery))
                self._discovery = discovery
        except StoreError as error:
            return str(error)
        return ""

    def forget_enrolment(self) -> None:
        """Have this machine be of no cluster any more, unless it has enrolled anew. Raises StoreError."""
        self._store.forget_enrolment(self._enrolled)

    def _read_mac(self) -> str:
        """The hardware address that this machine's address is made of; read once in a node's life."""
        try:
            state = self._store.agent()
        except StoreError as error:
            raise ValueError(str(error)) from None
        return "" if state is None else state.mac

    def _take(self, membership: Membership, secrets: Secrets) -> None:
        secrets = secrets.follow(membership.secret_generation)
        snapshot = None if membership.revision is None else membership.snapshot()
        self.settings = Settings.of(self.enrolment.cluster, secrets, snapshot)
        self.mesh.take(membership, secrets.secret)
