"""Where browsers' sockets lead."""

from django.urls import path

from nodes.consumers.about import AboutConsumer
from nodes.consumers.alerts import AlertsConsumer
from nodes.consumers.cluster import ClusterConsumer
from nodes.consumers.enrolment import EnrolmentConsumer
from nodes.consumers.following import (
    AgentsConsumer,
    ClusterOverviewConsumer,
    LinksConsumer,
    OptionsConsumer,
    OverviewConsumer,
    RemovalConsumer,
    RotationConsumer,
)
from nodes.consumers.lists import ActivityConsumer, ApiTokensConsumer, ClusterActivityConsumer, TokensConsumer
from nodes.consumers.map import MapConsumer
from nodes.consumers.matrix import MatrixConsumer
from nodes.consumers.node import NodeConsumer, NodeRowsConsumer
from nodes.consumers.pair import PairConsumer
from nodes.discovery.consumers import ClusterDiscoveryConsumer, DiscoveryConsumer

websocket_urlpatterns = [
    path("live/overview", OverviewConsumer.as_asgi()),
    path("live/overview/<uuid:cluster>", ClusterOverviewConsumer.as_asgi()),
    path("live/cluster/<uuid:cluster>", ClusterConsumer.as_asgi()),
    path("live/map/<uuid:cluster>/site", MapConsumer.as_asgi(), {"by": "site"}),
    path("live/map/<uuid:cluster>/kind", MapConsumer.as_asgi(), {"by": "kind"}),
    path("live/links", LinksConsumer.as_asgi()),
    path("live/matrix/<uuid:cluster>", MatrixConsumer.as_asgi()),
    path("live/node/<int:node>", NodeConsumer.as_asgi()),
    path("live/node/<int:node>/rows", NodeRowsConsumer.as_asgi()),
    path("live/pair/<int:here>/<int:there>", PairConsumer.as_asgi()),
    path("live/removal/<int:node>", RemovalConsumer.as_asgi()),
    path("live/agents/<uuid:cluster>", AgentsConsumer.as_asgi()),
    path("live/rotation/<uuid:cluster>", RotationConsumer.as_asgi()),
    path("live/discovery", DiscoveryConsumer.as_asgi()),
    path("live/discovery/<uuid:cluster>", ClusterDiscoveryConsumer.as_asgi()),
    path("live/alerts", AlertsConsumer.as_asgi()),
    path("live/alerts/<uuid:webhook>", AlertsConsumer.as_asgi()),
    path("live/about", AboutConsumer.as_asgi()),
    path("live/options/<uuid:cluster>", OptionsConsumer.as_asgi()),
    path("live/activity", ActivityConsumer.as_asgi()),
    path("live/activity/<uuid:cluster>", ClusterActivityConsumer.as_asgi()),
    path("live/api-tokens", ApiTokensConsumer.as_asgi()),
    path("live/tokens", TokensConsumer.as_asgi()),
    path("live/enrolment/<uuid:token>", EnrolmentConsumer.as_asgi()),
]
