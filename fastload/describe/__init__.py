"""What is in packed data, in numbers, tables and a page: `fastload stats`, `fastload inspect --html`.

index --numbers.py--> JSON values --table.py--> tables
                                  --page.py---> one page of HTML, with charts.py and sheet.py: some samples to look at
"""

from __future__ import annotations

from fastload.describe.numbers import describe

__all__ = ["describe"]
