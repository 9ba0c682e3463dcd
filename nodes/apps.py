from django.apps import AppConfig


class NodesConfig(AppConfig):
    """The console."""

    name = "nodes"
    verbose_name = "Console"

    def ready(self) -> None:
        """Let Django's permissions know the roles."""
        from nodes import access  # noqa: F401, PLC0415  models must be there first
        from nodes.accounts import signals  # noqa: F401, PLC0415
