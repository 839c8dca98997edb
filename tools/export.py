"""Export a quantized model and prove the file: ``python tools/export.py CONFIG CHECKPOINT --out model.onnx``.

The same as ``mmacs export``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('export')
