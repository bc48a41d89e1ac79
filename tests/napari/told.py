"""What napari tells its user."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication


@contextlib.contextmanager
def notifications() -> Iterator[list[str]]:
    """The messages that are shown while the block runs."""
    told: list[str] = []

    def hear(notification: Any) -> None:
        told.append(notification.message)

    notification_manager.notification_ready.connect(hear)
    try:
        yield told
        QApplication.processEvents()
    finally:
        notification_manager.notification_ready.disconnect(hear)
