"""History as charts read it: JSON, by the span that the address names."""

from __future__ import annotations

import msgspec
from django.http import HttpRequest, HttpResponse

from nodes.history import reading
from nodes.history.series import Chart


def history_context(request: HttpRequest) -> dict[str, object]:
    """What templates/history needs: how far back the page's address says."""
    return {"history_span": reading.parse_span(request.GET.get("history")), "history_spans": reading.SPANS}


def answer(chart: Chart | dict[int, list[float | None]]) -> HttpResponse:
    """A chart, or small lines by primary key, as JSON that no cache keeps."""
    return HttpResponse(
        msgspec.json.encode(chart), content_type="application/json", headers={"Cache-Control": "no-store"}
    )
