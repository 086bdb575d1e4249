"""Read models: asynchronous, disposable, rebuilt from the log."""
