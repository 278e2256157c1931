"""A model on the line: a folder that scores without torch, and the server with its page."""
