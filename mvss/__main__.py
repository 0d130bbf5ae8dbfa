"""python -m mvss.cli is mvss."""

from mvss.cli import main

if __name__ == "__main__":
    main()
