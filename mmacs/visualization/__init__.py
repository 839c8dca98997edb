from mmacs.visualization.extremes import draw_extremes

__all__ = ['draw_extremes']
