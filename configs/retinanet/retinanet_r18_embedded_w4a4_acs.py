# The embedded detection set at W4A4 on an adaptive coreset of 30 %, from the weights that
# retinanet_r18_embedded.py ends with; tools/demo.py runs one after the other.
_base_ = ['./retinanet_r18_embedded_w4a4.py', '../_base_/qat/coreset_detection.py']

default_hooks = dict(coreset=_base_.pop('coreset_hook'))
