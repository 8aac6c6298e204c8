"""What is in packed data, in numbers, tables and a page: `fastload stats`, `fastload inspect --html`.

index --numbers.py--> JSON values --table.py--> tables
                                  --mix.py----> class balance and histograms, drawn by charts.py, for any page
                                  --page.py---> one page of HTML: the mix, and sheet.py's samples to look at
"""

from __future__ import annotations

from fastload.describe.numbers import describe

__all__ = ["describe"]
