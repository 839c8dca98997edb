"""Report what quantization does to each layer: ``python tools/quant_report.py CONFIG [CHECKPOINT]``.

The same as ``mmacs report quantization``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('report quantization')
