"""Demonstrations in the formats people have them in, as samples of one kind."""
