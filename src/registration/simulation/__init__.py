"""A clinic in bad weather: real devices, a real service, and everything that can go wrong.

A seed decides all of it, so whatever a run finds can be run again. ``docs/simulation.md`` says what
happens in a run and what has to hold after it.
"""
