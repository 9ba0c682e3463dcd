"""Where the console's pages are."""

from django.contrib.auth.views import LogoutView
from django.urls import include, path

from kubespan.core.messages import ENROL_PATH
from kubespan.core.release import ARCHIVE_PATH, RELEASE_PATH, SCRIPT_PATH
from nodes import api
from nodes.views import (
    activity,
    bulk,
    cluster_overview,
    clusters,
    discovery,
    enrolment,
    links,
    nodes,
    overview,
    people,
    rotation,
    talos,
)
from nodes.views.help import HelpView
from nodes.views.settings.api_tokens import HealthView

urlpatterns = [
    path(ENROL_PATH.lstrip("/"), api.enrol, name="enrol"),
    path(RELEASE_PATH.lstrip("/"), api.release, name="agent-release"),
    path(ARCHIVE_PATH.lstrip("/"), api.archive, name="agent-archive"),
    path(SCRIPT_PATH.lstrip("/"), api.script, name="agent-script"),
    path("", overview.OverviewView.as_view(), name="overview"),
    path("first/", people.FirstAdministratorView.as_view(), name="first-run"),
    path("login/", people.SignInView.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("clusters/", clusters.ClusterListView.as_view(), name="cluster-list"),
    path("clusters/create/", clusters.ClusterCreateView.as_view(), name="cluster-create"),
    path("clusters/import/", clusters.ClusterImportView.as_view(), name="cluster-import"),
    path("clusters/<uuid:uuid>/", cluster_overview.ClusterView.as_view(), name="cluster"),
    path("clusters/<uuid:uuid>/nodes/", clusters.ClusterNodesView.as_view(), name="cluster-nodes"),
    path("clusters/<uuid:uuid>/links/", clusters.ClusterLinksView.as_view(), name="cluster-links"),
    path("clusters/<uuid:uuid>/options/", clusters.ClusterOptionsView.as_view(), name="cluster-options"),
    path("clusters/<uuid:uuid>/preview/", clusters.ClusterOptionsPreviewView.as_view(), name="cluster-preview"),
    path("clusters/<uuid:uuid>/activity/", clusters.ClusterActivityView.as_view(), name="cluster-activity"),
    path("clusters/<uuid:uuid>/agents/", clusters.ClusterAgentsView.as_view(), name="cluster-agents"),
    path("clusters/<uuid:uuid>/talos/", talos.ClusterTalosView.as_view(), name="cluster-talos"),
    path("clusters/<uuid:uuid>/talos/patch/", talos.ClusterTalosPatchView.as_view(), name="cluster-talos-patch"),
    path("clusters/<uuid:uuid>/talos/test/", talos.ClusterTalosTestView.as_view(), name="cluster-talos-test"),
    path("rollouts/<int:pk>/cancel/", clusters.RolloutCancelView.as_view(), name="rollout-cancel"),
    path("clusters/<uuid:uuid>/secret/", clusters.ClusterSecretView.as_view(), name="cluster-secret"),
    path("clusters/<uuid:uuid>/id/", clusters.ClusterIdView.as_view(), name="cluster-id"),
    path("clusters/<uuid:uuid>/rotation/", rotation.RotationView.as_view(), name="cluster-rotation"),
    path("clusters/<uuid:uuid>/rotation/start/", rotation.RotationStartView.as_view(), name="rotation-start"),
    path("clusters/<uuid:uuid>/rotation/switch/", rotation.RotationSwitchView.as_view(), name="rotation-switch"),
    path("clusters/<uuid:uuid>/rotation/cancel/", rotation.RotationCancelView.as_view(), name="rotation-cancel"),
    path("clusters/<uuid:uuid>/delete/", clusters.ClusterDeleteView.as_view(), name="cluster-delete"),
    path("clusters/<uuid:uuid>/enrolment/", enrolment.EnrolmentView.as_view(), name="cluster-enrolment"),
    path("nodes/", nodes.NodeListView.as_view(), name="node-list"),
    path("nodes/bulk/", bulk.NodeBulkView.as_view(), name="node-bulk"),
    path("nodes/<int:pk>/", nodes.NodeView.as_view(), name="node"),
    path("nodes/<int:pk>/approve/", nodes.NodeApproveView.as_view(), name="node-approve"),
    path("nodes/<int:pk>/remove/", nodes.NodeRemoveView.as_view(), name="node-remove"),
    path("nodes/<int:pk>/options/", nodes.NodeOptionsView.as_view(), name="node-options"),
    path("nodes/<int:pk>/networks/", nodes.NodeNetworksView.as_view(), name="node-networks"),
    path("nodes/<int:pk>/try-again/", nodes.NodeTryAgainView.as_view(), name="node-try-again"),
    path("links/", links.LinksView.as_view(), name="links"),
    path("links/<int:here>/<int:there>/", links.PairView.as_view(), name="pair"),
    path("tokens/", enrolment.TokenListView.as_view(), name="token-list"),
    path("tokens/bulk/", bulk.TokenBulkView.as_view(), name="token-bulk"),
    path("tokens/<uuid:uuid>/revoke/", enrolment.TokenRevokeView.as_view(), name="token-revoke"),
    path("discovery/", discovery.DiscoveryView.as_view(), name="discovery"),
    path("discovery/<int:pk>/", discovery.StrangerView.as_view(), name="discovery-stranger"),
    path("discovery/stats/", discovery.StatsView.as_view(), name="discovery-stats"),
    path("clusters/<uuid:uuid>/discovery/", discovery.ClusterDiscoveryView.as_view(), name="cluster-discovery"),
    path(
        "clusters/<uuid:uuid>/discovery/contents/",
        discovery.ClusterContentsView.as_view(),
        name="cluster-discovery-contents",
    ),
    path("activity/", activity.ActivityView.as_view(), name="activity"),
    path("settings/", include("nodes.views.settings.urls")),
    path("api/health", HealthView.as_view(), name="api-health"),
    path("help/", HelpView.as_view(), name="help"),
]
