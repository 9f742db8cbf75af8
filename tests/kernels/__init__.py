"""Kernels of other generations, made: trees and pages by word size, byte order, head, text columns and features.

generation.py    what a kernel is made of
trees.py         the files of its tracefs
formats.py       format files that its printers of fields can write
pages.py         ring pages that hold records of these formats
made.py          a whole recording of one: an event of each kind of declaration, and entries of them
expected.py      what these must be for a user
"""
