"""The whole flow on samples made on the spot: make -> pack -> stream -> augment -> train -> look.

samples     drawings, sounds or sentences of known classes
recipes     how each kind is read, augmented and learned
models      small networks
train       a plain training loop
pictures    a batch and the training curve as PNG
flow        all of it in a row
"""

from fastload.demo.flow import KINDS, DemoResult, run

__all__ = ["KINDS", "DemoResult", "run"]
