"""The program rclone, for both who run one: the store (`hookd.stores.rclone`) and `hookd mount`.

`program` finds it and says what it may be started with; `control` talks to one that runs.
"""
