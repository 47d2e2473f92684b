"""`python -m dita` is the command `dita`."""

from dita.cli import app

app(prog_name="dita")
