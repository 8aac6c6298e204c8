"""Where a loader's time goes, told to others: a line an epoch in the log, Prometheus, TensorBoard.

summary.py      `loader.stats()` as one line; what the loader logs
prometheus.py   `serve`, `collect`: counters that a Prometheus server reads
tensorboard.py  `Scalars`: what a SummaryWriter is given
"""

from __future__ import annotations
