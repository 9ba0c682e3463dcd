"""Browsers' sockets: a snapshot, then numbered deltas, at most four a second and only of what changed.

A consumer keeps what the page was last sent and what it should show. Announcements say that rows changed, and have them
read again; what agents report comes as it is flushed. Both only say when to look: the difference is found by comparing,
and every RENEW_SECONDS everything is read anew, so a lost announcement costs seconds. The shapes are `nodes.pages`.
"""
