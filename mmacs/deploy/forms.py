"""Which kinds of exported files there are, and what runs them; imports nothing, so that options can name them."""

FORMATS = ('qcdq', 'qonnx')
TARGETS = ('cpu', 'tensorrt')
SUFFIXES = ('.onnx', '.xml')
BACKENDS = ('onnxruntime', 'openvino')
