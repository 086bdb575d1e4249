"""How devices that were offline and the log come together again."""
