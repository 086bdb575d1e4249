"""Which records may be of the same person: a probabilistic matcher after Fellegi and Sunter.

Pure: it compares what it is given, and knows no database, no clock and no network.
Source: Fellegi and Sunter, "A Theory for Record Linkage", JASA 64 (1969).
"""
