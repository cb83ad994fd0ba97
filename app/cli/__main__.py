"""`python -m app.cli`: the admin command where it is not installed."""

from app.cli.admin import main

main()
