"""Pure machines of the client: they get `now` and messages, and return what to do."""
