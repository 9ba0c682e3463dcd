"""Where pages are: the admin's, and the console's own."""

from django.contrib import admin
from django.contrib.staticfiles.storage import staticfiles_storage
from django.urls import include, path
from django.views.generic import RedirectView

from nodes.accounts.door import AdminSignInView


class FaviconView(RedirectView):
    """Where browsers look for an icon that no page has named; its real address changes with its content."""

    def get_redirect_url(self, *_args, **_kwargs):
        return staticfiles_storage.url("nodes/favicon.svg")


urlpatterns = [
    path("favicon.ico", FaviconView.as_view()),
    path("admin/login/", AdminSignInView.as_view()),  # one door, at which guesses are counted
    path("admin/", admin.site.urls),
    path("", include("nodes.accounts.urls")),
    path("", include("nodes.urls")),
]
