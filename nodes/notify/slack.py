"""A message as Slack's incoming webhooks take it, and Mattermost's, Rocket.Chat's and Discord's (with /slack) too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SIGNS = {
    "node.pending": ":hourglass:",
    "node.away": ":warning:",
    "node.back": ":white_check_mark:",
    "link.down": ":red_circle:",
    "link.up": ":large_green_circle:",
    "configuration.fault": ":warning:",
    "rotation": ":key:",
    "cluster": ":information_source:",
    "test": ":wave:",
}


def encode(event: Mapping[str, Any], _delivery: str) -> bytes:
    """The sentence with its sign, a line for each link, and where to look."""
    lines = [f"{SIGNS.get(event['kind'], '')} {escape(event['text'])}".strip()]
    lines += [f"• {escape(link['node'])} → {escape(link['peer'])}" for link in event["links"]]
    if event["more"]:
        lines.append(f"• and {event['more']:,} more")
    if event["url"]:
        lines.append(f"<{event['url']}|Open in the console>")
    return json.dumps({"text": "\n".join(lines)}, ensure_ascii=False).encode()


def escape(text: str) -> str:
    """Names that machines choose may not become links, nor call everybody in a channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
