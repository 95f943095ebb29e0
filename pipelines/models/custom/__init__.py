"""Networks, losses, metrics and callbacks of the user's, which settings name by import path (`pipelines.system.import_path`).

The driver reads each module as text and checks it without running it (`sources`, `static_checks`); ranks run that text
(`loading`), so all of them run the same, whatever is on their disks.
"""
