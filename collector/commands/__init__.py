"""The commands of the command line, a module for each family of them.

Called by cli.py alone. Read words.py (options that several commands have), then any family: `register` gives the parser
the words of its commands, and below it stands what each command does.

A module here turns words into calls and results into lines: what it calls does the work. It imports what a command
needs when that command runs, so that `show` pays neither for trio nor for pydantic; nothing heavy stands at its top.
A new command goes into one family, and nowhere else.
"""

from collector.commands import archives, collecting, kernel, reading, serving

FAMILIES = (collecting, kernel, archives, reading, serving)
