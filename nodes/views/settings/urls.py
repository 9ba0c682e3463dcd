"""Where the pages of the settings are."""

from django.urls import path
from django.views.generic import RedirectView

from nodes.views.settings import about

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="settings-about"), name="settings"),
    path("about/", about.AboutView.as_view(), name="settings-about"),
]
