"""Pages: decode, hand over to a service, encode. Only who is signed in and has a role gets past the door."""
