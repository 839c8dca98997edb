"""Refuses a torch that is too old when it is imported, by what needs no other framework."""

from mmacs.utils.compat import check_framework

check_framework('torch')
