from mmacs.distillation.distiller import Distiller

__all__ = ['Distiller']
