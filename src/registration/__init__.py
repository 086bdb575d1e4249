"""Event-sourced patient registration: one log per tenant, one gate for every command."""

__version__ = "0.1.0"
