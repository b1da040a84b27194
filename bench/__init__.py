"""The measured claims: `python -m bench` runs every file here, `python -m bench NAME …` some of them.

A file has a `main()` that measures, prints a Markdown table and returns its rows. RESULTS.md is what they printed.
"""

import sweep as sweep  # before torch, for whose threads it sets how long they spin
