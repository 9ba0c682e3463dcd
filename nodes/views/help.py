"""What the words on the pages mean."""

from django.shortcuts import render
from django.views import View

from nodes.views.common import OperatorMixin


class HelpView(OperatorMixin, View):
    """Words, states, and where to read on."""

    def get(self, request):
        return render(request, "help.html")
