"""`python -m registration`: the same program as the `registration` script."""

from registration.cli import main

# Worker processes import this module again under another name and must not start the program.
if __name__ == "__main__":
    main()
