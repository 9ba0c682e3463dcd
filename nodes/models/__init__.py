"""The console's rows. Reading is queryset and model methods here; every change is a function in `nodes.services`."""

from nodes.models.activity import Audit, Transition
from nodes.models.alerts import Delivery, Outage, Webhook
from nodes.models.api_tokens import ApiToken
from nodes.models.clusters import Change, Cluster, Console, Rotation
from nodes.models.discovery import DiscoveryAffiliate, DiscoveryClock, DiscoveryCluster
from nodes.models.history import FollowedLink, HistoryMark, LinkHistory, NodeHistory, Period
from nodes.models.members import Candidate, Node, Tombstone
from nodes.models.obstacles import Obstacle
from nodes.models.people import Grant, Invitation
from nodes.models.roles import Role
from nodes.models.rollouts import Rollout, RolloutStep
from nodes.models.tokens import Token

__all__ = [
    "ApiToken",
    "Audit",
    "Candidate",
    "Change",
    "Cluster",
    "Console",
    "Delivery",
    "DiscoveryAffiliate",
    "DiscoveryClock",
    "DiscoveryCluster",
    "FollowedLink",
    "Grant",
    "HistoryMark",
    "Invitation",
    "LinkHistory",
    "Node",
    "NodeHistory",
    "Obstacle",
    "Outage",
    "Period",
    "Role",
    "Rollout",
    "RolloutStep",
    "Rotation",
    "Token",
    "Tombstone",
    "Transition",
    "Webhook",
]
