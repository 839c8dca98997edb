"""``python -m mmacs COMMAND ...``, which ``torchrun -m mmacs`` starts too: the command ``mmacs``."""

from mmacs.cli import main

if __name__ == '__main__':
    main()
