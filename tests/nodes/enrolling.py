"""A process of its own that enrols machines by the service: `python enrolling.py TOKEN COUNT [NAME]`.

It says `ready`, waits for a line, and prints one JSON list of what each machine was answered. With a name all are one
machine.
"""

from __future__ import annotations

import json
import os
import sys

import django


def main() -> None:
    """Enrol."""
    django.setup()
    # After Django's set-up: both read its settings.
    from django.db import connection  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    from nodes.services import enrolment  # noqa: PLC0415
    from nodes.services.refused import Refused  # noqa: PLC0415
    from tests.factories import Machine  # noqa: PLC0415

    token, count = sys.argv[1], int(sys.argv[2])
    names = sys.argv[3:] * count or [f"machine-{os.getpid()}-{number}" for number in range(count)]
    machines = [Machine(name, seed=name) for name in names]
    connection.ensure_connection()
    print("ready", flush=True)
    sys.stdin.readline()
    answers = []
    for machine in machines:
        try:
            answers.append(enrolment.enrol(machine.request(token), peer=None, now=timezone.now()).status)
        except Refused as refused:
            answers.append(refused.code)
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
