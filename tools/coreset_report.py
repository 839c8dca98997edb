"""Report what a run's coreset was, why, and what it cost: ``python tools/coreset_report.py WORK_DIR``.

The same as ``mmacs report coreset``.
"""

from mmacs import cli

if __name__ == '__main__':
    cli.run_command('report coreset')
