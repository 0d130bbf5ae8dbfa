"""python -m mvss is the command mvss."""

from mvss.cli import main

if __name__ == "__main__":
    main()
