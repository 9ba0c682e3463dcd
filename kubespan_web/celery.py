"""Celery's application and its timetable; tasks are in `nodes.tasks`."""

from __future__ import annotations

import os
import warnings
from logging.config import dictConfig

from celery import Celery
from celery.app.amqp import AMQP
from celery.schedules import crontab
from celery.signals import setup_logging, worker_ready

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kubespan_web.settings")

from django.conf import settings  # settings are found by the line above
from django_structlog.celery.steps import DjangoStructLogInitStep
from kombu import Connection

MINUTE = 60
RECONNECT_SECONDS = {"interval_start": 0.2, "interval_step": 0.3, "interval_max": 1.5}


class Broker(Connection):
    """A connection to Redis that is made again about once a second; Celery's patience would grow to half a minute."""

    def ensure_connection(self, *args, **options):
        """Connect, at our pace."""
        return super().ensure_connection(*args, **(RECONNECT_SECONDS | options))


class Queues(AMQP):
    """Celery's end of the broker, with our connection."""

    Connection = Broker


app = Celery("kubespan_web", amqp=Queues)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# A demonstration runs as root, for its network namespaces; the image and the units run the worker as somebody else.
warnings.filterwarnings("ignore", message="(?s).*superuser privileges")
app.steps["worker"].add(DjangoStructLogInitStep)


@setup_logging.connect
def use_our_logs(**_signal):
    """Celery would set its own up."""
    dictConfig(settings.LOGGING)


@worker_ready.connect
def beat_at_once(**_signal):
    """Not ten seconds later: the console is ready when a worker has been heard."""
    app.send_task("nodes.tasks.heartbeat")


def every(seconds, task):
    """A row of the timetable. What no worker took before the next turn is worth nothing any more: it expires."""
    return {"task": f"nodes.tasks.{task}", "schedule": seconds, "options": {"expires": seconds}}


def at_each_minute(task):
    """A row whose turn is the beginning of each minute, so that none is missed because turns drift."""
    return {"task": f"nodes.tasks.{task}", "schedule": crontab(), "options": {"expires": MINUTE}}


app.conf.beat_schedule = {
    "a worker lives": every(10, "heartbeat"),
    "tell webhooks what happened": every(5, "gather_alerts"),
    "go on with upgrades of agents": every(5, "advance_rollouts"),
    "find nodes that lag": every(15, "check_lag"),
    "find nodes that fell silent": every(15, "mark_silent_nodes"),
    "keep discovery and nodes the same": every(30, "keep_affiliates"),
    "note history": at_each_minute("note_history"),
    "forget what has expired": every(600, "expire"),
}
app.conf.beat_max_loop_interval = 5
