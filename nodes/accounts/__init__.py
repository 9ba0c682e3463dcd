"""Signing in, and one's own account: django-allauth, with this console's words, roles and audit."""
