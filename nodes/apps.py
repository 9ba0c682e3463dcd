from django.apps import AppConfig


class NodesConfig(AppConfig):
    """The console."""

    name = "nodes"
    verbose_name = "Console"

    def ready(self) -> None:
        """Have it noted who signs in."""
        from nodes.accounts import signals  # noqa: F401, PLC0415  models must be there first
