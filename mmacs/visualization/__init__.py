from mmacs.visualization.pictures import draw_detections, draw_extremes

__all__ = ['draw_detections', 'draw_extremes']
