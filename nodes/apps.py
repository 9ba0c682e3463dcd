from django.apps import AppConfig


class NodesConfig(AppConfig):
    """The console."""

    name = "nodes"
    verbose_name = "Console"
