"""What the words on the pages mean."""

from django.shortcuts import render
from django.views import View

from nodes.views.common import RoleMixin


class HelpView(RoleMixin, View):
    """Words, states, and where to read on."""

    permission = "enter_console"

    def get(self, request):
        return render(request, "help.html")
