"""Pages: decode, hand over to a service, encode. Only signed-in people of the staff get past the door."""
