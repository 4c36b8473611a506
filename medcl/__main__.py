"""`python -m medcl`, the same as the `medcl` command."""

from medcl.cli import main

main()
