"""The embedded model: its language and how it is trained."""
