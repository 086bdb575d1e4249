"""Text from elsewhere on terminals and in logs."""


def printable(text: str) -> str:
    """Return text that cannot command a terminal: other characters stand as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
