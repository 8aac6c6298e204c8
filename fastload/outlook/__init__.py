"""What a run will be like, before it starts. `fastload.check(data, batch_size, world_size=..., ...)`.

    index, order, share -> batches and shards of a rank, mixing, disk \
    first batch, read   -> memory, time to the first one               > Outlook, its concerns -> table, JSON

findings.py   what was found, as values
run.py        `check`
concerns.py   what will hurt, and what to do
table.py      the report as text
"""

from __future__ import annotations

from fastload.outlook.findings import Concern, Outlook
from fastload.outlook.run import check

__all__ = ["Concern", "Outlook", "check"]
