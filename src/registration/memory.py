"""How seldom Python looks for garbage: a process that holds much and makes few cycles."""

import gc


def collect_seldom() -> None:
    """Call once when a process has loaded what it works with.

    What is alive now stays: the collector need not look at it again. Batches of thousands of
    events would otherwise be gone through, over and over, for cycles that they do not have: a
    rebuild spent a quarter of its time there.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
