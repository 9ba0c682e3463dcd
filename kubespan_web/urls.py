"""Where pages are: the admin's, and the console's own."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("", include("nodes.urls")),
]
