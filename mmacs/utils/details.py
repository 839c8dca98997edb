"""What of a run's log few want to see at once."""

from mmengine.logging import MMLogger

DETAIL = 'mmacs_detail'  # attribute of such records


def log_detail(sentence: str) -> None:
    """Logs what goes to the log's file alone where the screen is kept short, see :mod:`mmacs.cli.screen`."""
    MMLogger.get_current_instance().info(sentence, extra={DETAIL: True})
