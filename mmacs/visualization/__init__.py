"""Pictures, plots and pages; each is imported when it is first used, so that options can name what there is."""

from mmacs.utils.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(  # noqa: PLE0604
    __name__, {'mmacs.visualization.pictures': ('draw_detections', 'draw_extremes')}
)
