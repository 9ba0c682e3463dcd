#!/usr/bin/env python
"""Django's commands, and the console's own: run, demo."""

import os
import sys

from django.core.management import execute_from_command_line

from nodes import embedded


def main() -> None:
    """Complete the environment where the command brings its own parts, then let Django do the rest."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kubespan_web.settings")
    try:
        embedded.prepare(sys.argv, os.environ)
    except embedded.NotPossible as reason:
        sys.exit(str(reason))
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
