"""`hookd mount`: one remote, mounted; a write that a task made is on it before the container is gone.

    settings, environment → preflight → stale endpoints cleaned → mount → ready → watch → drain → unmount

Each stage is a module; `life` wires them. What mounts (rclone) stands behind `provider`.
"""
