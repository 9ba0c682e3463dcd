"""Wiring: settings, addresses, the ASGI application, Celery's application and timetable. Decides nothing."""

from kubespan_web.celery import app

__all__ = ["app"]
