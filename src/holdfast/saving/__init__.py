"""Doing it: saving in the foreground and behind, and stopping by signal."""
