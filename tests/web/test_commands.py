"""How commands for scripts begin."""

SCRIPTS = (
    "approve_node", "backup", "create_cluster", "create_token", "discovery", "first_code", "list_nodes", "remove_node",
    "restore", "rotate_keys", "rotate_secret", "start_epoch", "upgrade_agents",
)  # fmt: skip

BEGUN = """
import sys
import django
from django.core.management import load_command_class
django.setup()
before = set(sys.modules)
for name in sys.argv[1:]:
    command = load_command_class("nodes", name)
    command.handle = lambda **_: None
    command.execute(force_color=False, no_color=False, skip_checks=False, stdout=None, stderr=None)
print(*(name for name in ("kubespan_web.urls", "nodes.urls", "nodes.admin") if name in sys.modules.keys() - before))
"""


def test_a_command_for_scripts_begins_without_importing_pages(python, production):
    ran = python("-c", BEGUN, *SCRIPTS, DJANGO_SETTINGS_MODULE="kubespan_web.settings", **production)
    assert (ran.returncode, ran.stdout.split()) == (0, []), ran.stderr
