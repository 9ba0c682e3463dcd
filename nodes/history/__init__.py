"""What nodes and links were like: arithmetic on points, and what pages read; `nodes.services.history` writes."""
