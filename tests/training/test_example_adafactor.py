"""The example of the optimizer alone runs and learns."""

import runpy

from tests.support import PROJECT


def test_the_example_fits_a_sine() -> None:
    example = runpy.run_path(str(PROJECT / "examples" / "adafactor_alone.py"))
    assert example["main"]() < 0.05
